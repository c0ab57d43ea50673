//! What URLs mean, and that those that mean nothing are refused without showing a password.

use std::time::Duration;

use super::*;
use crate::error::Status;
use crate::options::Options;

fn config(url: &str) -> Config {
    match parse(url) {
        Ok(Target::Redis(config)) => *config,
        Ok(_) => panic!("{url} is something else"),
        Err(error) => panic!("{url}: {error}"),
    }
}

fn refusal(url: &str) -> String {
    let mut options = Options::new();
    let error = options.set_url(url).expect_err(url);
    assert_eq!(error.status, Status::InvalidArgument);
    assert!(error.message.starts_with("url: ") && error.message.len() < 256, "{}", error.message);
    error.message
}

fn tcp(host: &str, port: u16) -> Address {
    Address::Tcp { host: host.into(), port }
}

#[test]
fn a_url_names_host_port_and_database() {
    for (url, address, database) in [
        ("redis://h", tcp("h", 6379), 0),
        ("redis://h/", tcp("h", 6379), 0),
        ("redis://h:7/3", tcp("h", 7), 3),
        ("redis://h:/3", tcp("h", 6379), 3),
        ("redis://127.0.0.1:65535?", tcp("127.0.0.1", 65535), 0),
        ("redis://[::1]", tcp("::1", 6379), 0),
        ("redis://[fe80::1%25eth0]:7/1", tcp("fe80::1%eth0", 7), 1),
        ("redis+unix:///run/redis.sock", Address::Unix("/run/redis.sock".into()), 0),
        ("redis+unix:///a%20b%2Bc+d?db=2", Address::Unix("/a b+c+d".into()), 2),
    ] {
        let config = config(url);
        assert_eq!((&config.address, config.database), (&address, database), "{url}");
        assert!(config.tls.is_none() && config.password.is_none() && config.username.is_none(), "{url}");
        assert_eq!((config.client_name.as_str(), config.keep_alive), ("dlock", Some(Duration::from_secs(30))));
    }
    assert!(matches!(parse("memory://a?b#c"), Ok(Target::Memory(name)) if name == "a?b#c"));
}

#[test]
fn a_url_names_nodes_of_a_cluster() {
    for (url, nodes, user) in [
        ("redis-cluster://a", vec![tcp("a", 6379)], None),
        (
            "redis-cluster://u:p,w@a:1,b,[::1]:3,a:1/?client_name=c&replicas=1",
            vec![tcp("a", 1), tcp("b", 6379), tcp("::1", 3)],
            Some("u"),
        ),
    ] {
        let Ok(Target::Cluster(named, config)) = parse(url) else { panic!("{url}") };
        assert_eq!((named, config.username.as_deref(), config.database), (nodes, user, 0), "{url}");
        assert_eq!(config.password.as_deref(), user.map(|_| "p,w"), "{url}");
        assert_eq!(config.copies.map(|copies| copies.replicas), user.map(|_| 1), "{url}");
    }
    if cfg!(feature = "tls") {
        let Ok(Target::Cluster(_, config)) = parse("rediss-cluster://a,b?ca=/x") else { panic!("with TLS") };
        assert_eq!(config.tls.and_then(|tls| tls.ca), Some("/x".into()));
    } else {
        assert!(refusal("rediss-cluster://a,b").contains("rediss-cluster:// needs TLS"));
    }
    assert!(refusal("redis-cluster://a,b/3").contains("one database"));
    assert!(refusal("redis-cluster://a,").contains("the host must not be empty"));
    assert!(refusal("redis-cluster://a?ca=x").contains("ca: only with"));
    assert!(refusal("redis-cluster://a?replicas=0").contains("replicas: must be from 1"));
    assert!(refusal("redis-cluster://a?db=3").contains("no parameter db; known are client_name"));
    assert!(refusal("redis-cluster://u@a").contains("names a user and no password"));
    assert!(!refusal("redis-cluster://u:hunter2@a,b:hunter2").contains("hunter2"));
}

#[test]
fn a_url_names_user_and_password() {
    for (url, user, password) in [
        ("redis://:p@h", None, Some("p")),
        ("redis://u:p@h", Some("u"), Some("p")),
        ("redis://u:@h", Some("u"), Some("")),
        ("redis://:@h", None, None),
        ("redis://@h", None, None),
        ("redis://u%3Av:p%40%2F%3F%23%25+@h", Some("u:v"), Some("p@/?#%+")),
        ("redis://u:a:b@c@h", Some("u"), Some("a:b@c")),
        ("redis+unix:///s?user=u&pass=p%26%2B+", Some("u"), Some("p&++")),
        ("redis+unix:///s?pass=p", None, Some("p")),
        ("redis+unix:///s?user=u&pass=", Some("u"), Some("")),
    ] {
        let config = config(url);
        assert_eq!((config.username.as_deref(), config.password.as_deref()), (user, password), "{url}");
    }
}

#[test]
fn parameters_set_what_they_are_called() {
    let set = config("redis://h?client_name=billing-7%3Aworker&keepalive_ms=100");
    assert_eq!((set.client_name.as_str(), set.keep_alive), ("billing-7:worker", Some(Duration::from_millis(100))));
    assert_eq!(config("redis+unix:///s?keepalive_ms=0&").keep_alive, None);
}

#[cfg(feature = "tls")]
#[test]
fn a_secured_url_names_the_files_and_the_name_of_the_server() {
    assert_eq!(config("rediss://h/2").tls, Some(Tls::default()));
    let all = config("rediss://u:p@h:1?ca=/a%20b&cert=c&key=k&server_name=s.example&client_name=n");
    let tls = Tls {
        ca: Some("/a b".into()),
        cert: Some("c".into()),
        key: Some("k".into()),
        server_name: Some("s.example".into()),
    };
    assert_eq!((all.tls, all.client_name.as_str(), all.password.as_deref()), (Some(tls), "n", Some("p")));
    assert!(config("rediss://h?server_name=::1").tls.is_some());
    for (url, word) in [
        ("rediss://h?ca=", "ca: must not be empty"),
        ("rediss://h?cert=c", "cert and key"),
        ("rediss://h?key=c", "cert and key"),
        ("rediss://h?server_name=a%20b", "server_name: is no name"),
        ("rediss://h?insecure=true", "no parameter insecure"),
        ("rediss://h#insecure", "#"),
    ] {
        assert!(refusal(url).contains(word), "{}", refusal(url));
    }
}

#[cfg(not(feature = "tls"))]
#[test]
fn a_secured_url_is_refused_and_the_feature_is_named() {
    assert!(refusal("rediss://h").contains("feature `tls`"));
}

#[test]
fn what_is_wrong_is_named() {
    for (url, word) in [
        ("", "must begin with redis://"),
        ("h:6379", "must begin with"),
        ("http://h", "must begin with"),
        ("redis:/h", "must begin with"),
        ("REDIS://h", "must begin with"),
        ("redis://", "the host must not be empty"),
        ("redis://:6379", "the host must not be empty"),
        ("redis://?db=1", "the host must not be empty"),
        ("redis://a b", "the host is no host name"),
        ("redis://a%40b", "the host is no host name"),
        ("redis://a,b", "the host has a `,`"),
        ("redis://a%00b", "the host contains NUL"),
        ("redis://%FF", "the host is not UTF-8"),
        ("redis://[::1", "has no `]`"),
        ("redis://[::1]7", "behind `]`"),
        ("redis://::1", "in brackets"),
        ("redis://h:0", "the port must be"),
        ("redis://h:65536", "the port must be"),
        ("redis://h:-1", "the port must be"),
        ("redis://h:+1", "the port must be"),
        ("redis://h/x", "the database must be"),
        ("redis://h/-1", "the database must be"),
        ("redis://h/1/", "the database must be"),
        ("redis://h/99999999999", "the database must be"),
        ("redis://u@h", "no password"),
        ("redis://%FF:p@h", "the user is not UTF-8"),
        ("redis://u:%FF@h", "the password is not UTF-8"),
        ("redis://u:%00@h", "the password contains NUL"),
        ("redis://h#x", "#"),
        ("redis://h?x=1", "no parameter x; known are client_name, keepalive_ms"),
        ("redis://h?=1", "a parameter is unknown; known are client_name, keepalive_ms"),
        ("redis://h?x", "parameter 1 has no `=`"),
        ("redis://h?client_name=a&client_name=b", "parameter 2 is given twice"),
        ("redis://h?client_name=", "client_name: "),
        ("redis://h?client_name=a%20b", "client_name: "),
        ("redis://h?client_name=%C3%A9", "client_name: "),
        ("redis://h?client_name=a%0Ab", "client_name: "),
        ("redis://h?keepalive_ms=99", "keepalive_ms: "),
        ("redis://h?keepalive_ms=x", "keepalive_ms: "),
        ("redis://h?db=1", "no parameter db"),
        ("redis://h?ca=/x", "ca: only with rediss://"),
        ("redis+unix://", "a path from the root"),
        ("redis+unix:///", "a path from the root"),
        ("redis+unix://run/s", "a path from the root"),
        ("redis+unix:///s?db=x", "the database must be"),
        ("redis+unix:///s?user=u", "no password"),
        ("redis+unix:///s?ca=x", "no parameter ca"),
    ] {
        assert!(refusal(url).contains(word), "{url}: {}", refusal(url));
    }
    assert!(refusal(&format!("redis://h?client_name={}", "x".repeat(129))).contains("client_name: "));
}

/// A password as somebody might choose it, in one piece and in pieces at what is special in a URL.
fn password(seed: &mut u64) -> (String, Vec<String>) {
    let mut draw = |below: usize| {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*seed >> 33) as usize % below
    };
    const SPECIAL: &[u8] = b"/?#@:&=%+[]! \"'\\;,<>|~`{}()^*$";
    let mut text = String::new();
    for _ in 0..1 + draw(4) {
        if draw(3) > 0 {
            text.push(SPECIAL[draw(SPECIAL.len())] as char);
        }
        // Upper case and digits mixed, so that no message contains it by chance.
        text.extend(
            (0..5).map(|i| if i % 2 == 0 { b"QXZJKV"[draw(6)] as char } else { b"0123456789"[draw(10)] as char }),
        );
    }
    let pieces = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|piece| piece.len() > 4);
    (text.clone(), pieces.map(str::to_owned).collect())
}

#[test]
fn no_password_is_shown_whether_it_was_encoded_or_not() {
    let (mut seed, mut refused) = (1, 0);
    for _ in 0..20_000 {
        let (password, pieces) = password(&mut seed);
        let encoded: String = password.bytes().map(|b| format!("%{b:02X}")).collect();
        // What is right, and what is wrong in several places; as it should be and as it often is.
        for word in [&encoded, &password] {
            for url in [
                format!("redis://u:{word}@h:7/1?client_name=c"),
                format!("redis://:{word}@h"),
                format!("redis://u:{word}@h:port"),
                format!("redis://u:{word}@h/x"),
                format!("redis://u:{word}@h?x=1"),
                format!("redis://u:{word}"),
                format!("rediss://u:{word}@h"),
                format!("rediss://h?server_name={word}%20h"),
                format!("redis+unix:///s?user=u&pass={word}"),
                format!("redis+unix:///s?user=u&pass={word}&x=1"),
                format!("redis-quorum://u:{word}@h,i,j?client_name=c"),
                format!("redis-quorum://u:{word}@h,i"),
                format!("nonsense://u:{word}@h"),
            ] {
                let mut options = Options::new();
                match options.set_url(&url) {
                    // Where it was not encoded, a piece may have become the host's or a parameter's value.
                    Ok(()) if word == &password && password.contains(['/', '?', '#', '@', '&']) => {}
                    Ok(()) => {
                        assert!(!pieces.iter().any(|piece| format!("{options:?}").contains(piece)), "{options:?}")
                    }
                    Err(error) => {
                        refused += 1;
                        let shown = pieces.iter().any(|piece| error.message.contains(piece));
                        assert!(!shown, "{url}: {}", error.message);
                    }
                }
            }
        }
    }
    assert!(refused > 100_000, "{refused}");
}

#[test]
fn a_url_of_sentinels_names_them_the_service_and_two_logins() {
    let set = config(
        "redis-sentinel://u:p@a,[::1]:7,c:8/my%2Fmaster/3?sentinel_username=s&sentinel_password=w&client_name=n",
    );
    let Address::Service(service) = &set.address else { panic!("{:?}", set.address) };
    let tcp = |host: &str, port| Address::Tcp { host: host.into(), port };
    assert_eq!(service.sentinels, [tcp("a", 26_379), tcp("::1", 7), tcp("c", 8)]);
    assert_eq!((service.name.as_str(), set.database, set.client_name.as_str()), ("my/master", 3, "n"));
    assert_eq!((set.username.as_deref(), set.password.as_deref()), (Some("u"), Some("p")));
    assert_eq!((service.username.as_deref(), service.password.as_deref()), (Some("s"), Some("w")));
    assert!(!format!("{service:?}").contains("\"w\""));
    for (url, word) in [
        ("redis-sentinel://a", "must name the service"),
        ("redis-sentinel://a/", "must name the service"),
        ("redis-sentinel:///m", "the host must not be empty"),
        ("redis-sentinel://a,,b/m", "the host must not be empty"),
        ("redis-sentinel://a/m/x", "the database must be"),
        ("redis-sentinel://a/m?sentinel_username=s", "sentinel_username: needs"),
        ("redis-sentinel://a/m?sentinel_tls=no", "sentinel_tls: only with"),
        ("redis-sentinel://a/m?x=1", "no parameter x"),
    ] {
        assert!(refusal(url).contains(word), "{url}: {}", refusal(url));
    }
}

fn servers(url: &str) -> Vec<Config> {
    match parse(url) {
        Ok(Target::Quorum(servers)) => servers,
        Ok(_) => panic!("{url} is no quorum"),
        Err(error) => panic!("{url}: {error}"),
    }
}

#[test]
#[cfg(any(target_os = "linux", target_os = "android"))]
fn a_quorum_is_three_five_or_seven_servers_with_all_else_in_common() {
    let addresses = |url| servers(url).into_iter().map(|config| config.address).collect::<Vec<_>>();
    assert_eq!(addresses("redis-quorum://a,b:7,[::1]:8"), [tcp("a", 6379), tcp("b", 7), tcp("::1", 8)]);
    assert_eq!(addresses("redis-quorum://a,b,c,d,e").len(), 5);
    assert_eq!(addresses("redis-quorum://a,b,c,d,e,f,g/2").len(), 7);
    for config in servers("redis-quorum://u:p,w%40@a,b,c/3?client_name=me&keepalive_ms=500") {
        assert_eq!((config.username.as_deref(), config.password.as_deref()), (Some("u"), Some("p,w@")));
        assert_eq!((config.database, config.client_name.as_str()), (3, "me"));
        assert_eq!((config.keep_alive, config.tls.is_none()), (Some(Duration::from_millis(500)), true));
    }
    for (url, expected) in [
        ("redis-quorum://", "server 1: the host must not be empty"),
        ("redis-quorum://a", "names 1 servers; a quorum has 3, 5 or 7"),
        ("redis-quorum://a,b", "names 2 servers"),
        ("redis-quorum://a,b,c,d", "names 4 servers"),
        ("redis-quorum://a,b,c,d,e,f,g,h,i", "names 9 servers"),
        ("redis-quorum://a,,c", "server 2: the host must not be empty"),
        ("redis-quorum://a,b,c:x", "server 3: the port must be a number"),
        ("redis-quorum://a,b,A:6379", "servers 1 and 3 are the same"),
        ("redis-quorum://a,b,c/x", "the database must be a number"),
        ("redis-quorum://a,b,c?server_name=x", "server_name: only with rediss://"),
        ("redis-quorum://u@a,b,c", "names a user and no password"),
        ("redis-quorum://a,b,c?replicas=1", "replicas: not with redis-quorum://"),
        ("redis-quorum://a,b,c?aof=1", "aof: not with redis-quorum://"),
        ("redis-quorum://a,b,c?replicas_timeout_ms=0", "replicas_timeout_ms: not with redis-quorum://"),
        ("redis-quorum://a,b,c?x=1", "no parameter x; known are client_name, keepalive_ms; with TLS"),
    ] {
        assert!(refusal(url).contains(expected), "{url}: {}", refusal(url));
    }
    for url in ["redis-quorum://u:hunter2/x@a,b,c", "redis-quorum://u:hunter2,a,b,c", "redis-quorum://u:hun#ter2@a,b,c"]
    {
        assert!(!refusal(url).contains("hun"), "{url}: {}", refusal(url));
    }
}

#[test]
fn copies_of_a_lock_are_asked_for_by_every_url_of_a_server() {
    let copies = |replicas, on_disk, ms| Some(Copies { replicas, on_disk, timeout: Duration::from_millis(ms) });
    let mut urls = vec!["redis://h?", "redis+unix:///s?", "redis-sentinel://h/m?"];
    if cfg!(feature = "tls") {
        urls.extend(["rediss://h?", "rediss-sentinel://h/m?"]);
    }
    for url in urls {
        let of = |more: &str| config(&format!("{url}{more}")).copies;
        assert_eq!(of(""), None);
        assert_eq!(of("replicas=2"), copies(2, false, 1_000));
        assert_eq!(of("replicas_timeout_ms=50&replicas=100"), copies(100, false, 50));
        assert_eq!(of("aof=1"), copies(0, true, 1_000));
        assert_eq!(of("aof=1&replicas=1"), copies(1, true, 1_000));
        for (more, word) in [
            ("replicas=0", "replicas: must be from 1 to 100"),
            ("replicas=101", "replicas: must be from 1 to 100"),
            ("replicas=-1", "replicas: must be from 1 to 100"),
            ("replicas_timeout_ms=0&replicas=1", "replicas_timeout_ms: must be from 1 to"),
            ("replicas_timeout_ms=9", "replicas: must be from 1 to 100"),
            ("aof=yes", "aof: can only be 1"),
        ] {
            let message = refusal(&format!("{url}{more}"));
            assert!(message.contains(word), "{more}: {message}");
        }
        // All that is known fits a message.
        refusal(&format!("{url}parameter_of_twenty_four=1"));
        refusal(&format!("{url}a@b=1"));
    }
}

#[test]
#[cfg(all(feature = "tls", any(target_os = "linux", target_os = "android")))]
fn a_quorum_may_speak_tls() {
    for config in servers("rediss-quorum://a,b,c?ca=/ca.pem") {
        assert_eq!(config.tls.unwrap().ca, Some("/ca.pem".into()));
    }
}
