//! A Redis or Valkey server of one's own for a test: on a free port and in a directory of its own, stopped when dropped.
//! The binary is the one that `DLOCK_TEST_SERVER` names, else `redis-server` from the PATH.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A running server.
pub struct RedisServer {
    child: Child,
    directory: PathBuf,
    port: u16,
    password: Option<String>,
    program: PathBuf,
    arguments: Vec<String>,
}

impl RedisServer {
    /// Starts one; waits until it answers.
    pub fn start(arguments: &[&str]) -> Self {
        Self::start_program(&Self::default_program(), arguments)
    }

    /// The program that [`start`](Self::start) starts.
    pub fn default_program() -> PathBuf {
        std::env::var_os("DLOCK_TEST_SERVER").unwrap_or_else(|| "redis-server".into()).into()
    }

    /// Starts that program; waits until it answers.
    pub fn start_program(program: &Path, arguments: &[&str]) -> Self {
        // A port that was free a moment ago may be taken by another test: try again then.
        for _ in 0..10 {
            if let Some(server) = Self::try_start(program, arguments) {
                return server;
            }
        }
        panic!("{} does not start with {arguments:?}", program.display());
    }

    fn try_start(program: &Path, arguments: &[&str]) -> Option<Self> {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("dlock-test-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory for the server");
        let port = free_port();
        let child = spawn(program, &directory, port, arguments);
        let password = arguments.iter().position(|a| *a == "--requirepass").map(|i| arguments[i + 1].to_owned());
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let mut server = RedisServer { child, directory, port, password, program: program.to_owned(), arguments };
        server.answers().then_some(server)
    }

    /// Waits until it answers. False: it has ended.
    fn answers(&mut self) -> bool {
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            if let Ok(Some(_)) = self.child.try_wait() {
                return false;
            }
            // Another may be at the port for a moment. Also one that answers errors to everything has come up.
            let ready = [format!("process_id:{}", self.child.id()), "loading:0".to_owned()];
            match self.try_connect().map(|mut c| redis::cmd("INFO").query::<String>(&mut c)) {
                Ok(Ok(info)) if ready.iter().all(|ready| info.lines().any(|line| line == ready)) => return true,
                Ok(Err(error)) if !error.is_io_error() => return true,
                _ => std::thread::sleep(Duration::from_millis(2)),
            }
        }
        false
    }

    /// Ends it at once (`SIGKILL`); waits until it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again where it was, with the data that it has saved; waits until it answers.
    pub fn start_again(&mut self) {
        self.kill();
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            // Its port may be in use for a moment: by another test's server, or as a connection's own.
            let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
            self.child = spawn(&self.program, &self.directory, self.port, &arguments);
            if self.answers() {
                return;
            }
            self.kill();
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("{} does not start again on port {}", self.program.display(), self.port);
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The unix socket.
    pub fn socket_path(&self) -> PathBuf {
        self.directory.join("s")
    }

    /// The server's process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A plain connection to it, if it answers.
    pub fn try_connect(&self) -> redis::RedisResult<redis::Connection> {
        let secret = self.password.as_ref().map(|p| format!(":{p}@")).unwrap_or_default();
        let url = format!("redis://{secret}127.0.0.1:{}/", self.port);
        redis::Client::open(url)?.get_connection_with_timeout(Duration::from_secs(5))
    }

    /// A plain connection to it.
    pub fn connection(&self) -> redis::Connection {
        self.try_connect().expect("a connection to the test's server")
    }

    /// One command on a connection of its own; panics on an error reply.
    pub fn cmd<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        self.try_cmd(words).unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    /// One command on a connection of its own.
    pub fn try_cmd<T: redis::FromRedisValue>(&self, words: &[&str]) -> redis::RedisResult<T> {
        let mut command = redis::cmd(words[0]);
        for word in &words[1..] {
            command.arg(*word);
        }
        command.query(&mut self.try_connect()?)
    }

    /// Every key but counters.
    pub fn keys(&self) -> Vec<String> {
        let mut keys: Vec<String> = self.cmd(&["KEYS", "*"]);
        keys.retain(|key| !key.starts_with(":dlock:fence"));
        keys.sort();
        keys
    }

    /// The version, as `INFO` has it.
    pub fn version(&self) -> String {
        let info: String = self.cmd(&["INFO", "server"]);
        let line = info.lines().find(|line| line.starts_with("valkey_version:") || line.starts_with("redis_version:"));
        line.unwrap_or_default().to_owned()
    }
}

fn spawn(program: &Path, directory: &Path, port: u16, arguments: &[&str]) -> Child {
    Command::new(program)
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
        .args(["--dir", directory.to_str().unwrap(), "--unixsocket", directory.join("s").to_str().unwrap()])
        .args(["--repl-diskless-sync-delay", "0"])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| {
            let program = program.display();
            panic!("{program}: {error}; set DLOCK_TEST_SERVER or put redis-server on the PATH")
        })
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(Path::new(&self.directory));
    }
}

/// A port on which nothing listens, never the default one.
pub fn free_port() -> u16 {
    loop {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().unwrap().port();
        if port != 6379 {
            return port;
        }
    }
}
