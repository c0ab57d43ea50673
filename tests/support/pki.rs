//! Certificates of every kind that a test of TLS needs, made anew for it, and a server with them. Gone with the value.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};

use crate::redis_server::{RedisServer, free_port};

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A directory with `ca.pem`, `other-ca.pem`, and pairs of a certificate and a key: `server`, `expired`, `future`,
/// `client`, `stranger` (signed by the other CA).
pub struct Pki {
    directory: PathBuf,
}

impl Pki {
    pub fn new() -> Self {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("dlock-pki-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory for certificates");
        let this = Pki { directory };
        let (ca, other) = (this.authority("ca"), this.authority("other-ca"));
        let years = |from, to| (date_time_ymd(from, 1, 1), date_time_ymd(to, 1, 1));
        for (name, issuer, (from, to)) in [
            ("server", &ca, years(2000, 2200)),
            ("client", &ca, years(2000, 2200)),
            ("expired", &ca, years(2000, 2001)),
            ("future", &ca, years(2199, 2200)),
            ("stranger", &other, years(2000, 2200)),
        ] {
            let mut params = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
            (params.not_before, params.not_after) = (from, to);
            let key = KeyPair::generate().unwrap();
            let certificate = params.signed_by(&key, issuer).unwrap();
            this.write(&format!("{name}.pem"), &certificate.pem());
            this.write(&format!("{name}.key"), &key.serialize_pem());
        }
        this
    }

    fn authority(&self, name: &str) -> Issuer<'static, KeyPair> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        self.write(&format!("{name}.pem"), &params.self_signed(&key).unwrap().pem());
        Issuer::new(params, key)
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.directory.join(name), text).expect("a file of a certificate");
    }

    pub fn path(&self, name: &str) -> String {
        self.directory.join(name).to_str().expect("a path in UTF-8").to_owned()
    }

    /// A server that shows this certificate at the port answered, and is without TLS at its usual one.
    pub fn server(&self, certificate: &str, more: &[&str]) -> (RedisServer, u16) {
        let port = free_port();
        let (cert, key) = (self.path(&format!("{certificate}.pem")), self.path(&format!("{certificate}.key")));
        let (text, ca) = (port.to_string(), self.path("ca.pem"));
        let mut arguments =
            vec!["--tls-port", &text, "--tls-cert-file", &cert, "--tls-key-file", &key, "--tls-ca-cert-file", &ca];
        if !more.contains(&"--tls-auth-clients") {
            arguments.extend(["--tls-auth-clients", "no"]);
        }
        arguments.extend(more);
        (RedisServer::start_program(&with_tls(), &arguments), port)
    }
}

impl Drop for Pki {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// The first of the test's servers that was built with TLS. There must be one: a test that did not run has not passed.
pub fn with_tls() -> PathBuf {
    let named = std::env::var("DLOCK_TEST_SERVERS").unwrap_or_default();
    let further = named.split(':').filter(|path| !path.is_empty()).map(PathBuf::from);
    let all: Vec<PathBuf> = std::iter::once(RedisServer::default_program()).chain(further).collect();
    let found = all.iter().find(|program| knows_tls(program));
    found
        .unwrap_or_else(|| panic!("none of {all:?} was built with TLS; name one that was in DLOCK_TEST_SERVER"))
        .clone()
}

/// A server that is given a line it cannot read names the first such: `tls-port`, if it does not know that. (It does not
/// come up in any case, and would listen nowhere if it did.)
fn knows_tls(program: &Path) -> bool {
    let output = Command::new(program).args(["--port", "0", "--tls-port", "0", "--version"]).output();
    output.is_ok_and(|output| {
        let said = [output.stdout, output.stderr].concat();
        !String::from_utf8_lossy(&said).contains("'tls-port")
    })
}
