//! A URL into what it says: where the server is, or the servers are, how to be let in, how to be known. Does no I/O and opens no file.
//!
//! Written by hand, since no message may repeat what could be a password: a URL that is wrong is often one whose password
//! was not percent-encoded, and then any of its parts may be a piece of it.

use std::path::PathBuf;

use percent_encoding::percent_decode_str;

use super::{Target, check_host, invalid};
use crate::error::Result;
use crate::store::redis::{Address, Config, Copies, Service, Tls};

/// Redis' own, for `redis://` and `rediss://` alike.
pub const DEFAULT_PORT: u16 = 6379;
/// The sentinels' own.
const SENTINEL_PORT: u16 = 26_379;
const SCHEMES: &str = "redis://, redis-sentinel://, redis-cluster://, redis-quorum:// (with TLS rediss://, \
                       rediss-sentinel://, rediss-cluster://, rediss-quorum://), redis+unix:// or memory://";
/// How many servers a quorum may have.
const QUORUM_SIZES: [usize; 3] = [3, 5, 7];
/// More replicas than anybody has.
const REPLICAS_MAX: u32 = 100;
/// The parameters of a server that is reached by TCP, and of a cluster.
const OF_TCP: &str =
    "client_name, keepalive_ms, replicas, replicas_timeout_ms, aof; with TLS also ca, cert, key, server_name";
const OF_SENTINEL: &str = "client_name, keepalive_ms, replicas, replicas_timeout_ms, aof, sentinel_username, \
                           sentinel_password; with TLS also ca, cert, key, server_name, sentinel_tls";
const OF_QUORUM: &str = "client_name, keepalive_ms; with TLS also ca, cert, key, server_name";
const OF_UNIX: &str = "db, user, pass, client_name, keepalive_ms, replicas, replicas_timeout_ms, aof";
/// The longest client name.
const CLIENT_NAME_MAX: usize = 128;

pub fn parse(url: &str) -> Result<Target> {
    let Some((scheme, rest)) = url.split_once("://") else { return Err(bad(format!("must begin with {SCHEMES}"))) };
    let (plain, tls) = match scheme.strip_prefix("rediss") {
        Some(kind) => (format!("redis{kind}"), Some(Tls::default())),
        None => (scheme.to_owned(), None),
    };
    let read: fn(&str, Option<Tls>) -> Parsed<Target> = match plain.as_str() {
        "memory" => return Ok(Target::Memory(rest.to_owned())),
        "redis" => tcp,
        "redis+unix" if tls.is_none() => |rest, _| unix(rest),
        "redis-sentinel" => sentinels,
        "redis-cluster" => cluster,
        "redis-quorum" => quorum,
        _ => return Err(bad(format!("must begin with {SCHEMES}"))),
    };
    if tls.is_some() && !cfg!(feature = "tls") {
        return Err(bad(format!("{scheme}:// needs TLS, which this build of dlock does not have (feature `tls`)")));
    }
    read(rest, tls).map_err(bad)
}

fn bad(problem: impl std::fmt::Display) -> crate::Error {
    invalid(format!("url: {problem}"))
}

/// What is wrong, in words that repeat nothing of the URL but names of parameters.
type Parsed<T> = std::result::Result<T, String>;

fn tcp(rest: &str, tls: Option<Tls>) -> Parsed<Target> {
    let url = Parts::of(rest)?;
    let config = url.config(tcp_address(url.hosts, DEFAULT_PORT)?, tls, OF_TCP, no_other)?;
    Ok(Target::Redis(Box::new(config)))
}

/// `[login@]hosts[/path][?query]`
struct Parts<'a> {
    login: Option<&'a str>,
    hosts: &'a str,
    path: &'a str,
    query: &'a str,
}

impl<'a> Parts<'a> {
    fn of(rest: &'a str) -> Parsed<Self> {
        let (place, query) = parts(rest)?;
        let (authority, path) = place.split_once('/').unwrap_or((place, ""));
        let (login, hosts) =
            authority.rsplit_once('@').map_or((None, authority), |(login, hosts)| (Some(login), hosts));
        Ok(Parts { login, hosts, path, query })
    }

    /// All but the hosts, for a server there, with the path as its database. `own` takes the parameters that only this
    /// kind of URL has. `known`: all names.
    fn config(
        &self,
        address: Address,
        tls: Option<Tls>,
        known: &str,
        mut own: impl FnMut(&str, &str) -> Parsed<bool>,
    ) -> Parsed<Config> {
        let mut config = Config::new(address);
        config.tls = tls;
        set_login(&mut config, self.login)?;
        if !self.path.is_empty() {
            config.database = database(self.path)?;
        }
        for (name, value) in parameters(self.query)? {
            let taken =
                own(&name, &value)? || common(&mut config, &name, &value)? || secured(&mut config, &name, &value)?;
            if !taken {
                return Err(unknown(&name, self.query, known));
            }
        }
        check_whole(&config)?;
        Ok(config)
    }
}

/// For [`Parts::config`]: this kind of URL has no parameters of its own.
fn no_other(_name: &str, _value: &str) -> Parsed<bool> {
    Ok(false)
}

/// What only all parameters together show.
fn check_whole(config: &Config) -> Parsed<()> {
    if config.copies.is_some_and(|copies| copies.replicas == 0 && !copies.on_disk) {
        return Err(format!("replicas: must be from 1 to {REPLICAS_MAX}; 0, or none, only with aof=1"));
    }
    match &config.tls {
        Some(tls) if tls.cert.is_some() != tls.key.is_some() => Err("cert and key: both or neither".to_owned()),
        _ => Ok(()),
    }
}

/// `[login@]sentinel,sentinel/service[/db]`; the login is the servers', as in the other URLs.
fn sentinels(rest: &str, tls: Option<Tls>) -> Parsed<Target> {
    let mut url = Parts::of(rest)?;
    let (name, number) = url.path.split_once('/').unwrap_or((url.path, ""));
    url.path = number;
    let mut service = Service {
        name: decoded("the service", name)?,
        sentinels: url.hosts.split(',').map(|host| tcp_address(host, SENTINEL_PORT)).collect::<Parsed<_>>()?,
        username: None,
        password: None,
        tls: tls.clone(),
    };
    if service.name.is_empty() || service.name.contains(char::is_control) {
        return Err("must name the service behind the sentinels, as in redis-sentinel://host:26379/mymaster".to_owned());
    }
    let mut is_plain = false;
    // The servers' address is known when a sentinel has said it.
    let mut config = url.config(Address::local(), tls, OF_SENTINEL, |name, value| {
        match name {
            "sentinel_username" => service.username = Some(value.to_owned()).filter(|user| !user.is_empty()),
            "sentinel_password" => service.password = Some(value.to_owned()),
            "sentinel_tls" if service.tls.is_none() => {
                return Err("sentinel_tls: only with rediss-sentinel://".to_owned());
            }
            "sentinel_tls" if value == "no" => is_plain = true,
            "sentinel_tls" => return Err("sentinel_tls: can only be no".to_owned()),
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    if service.username.is_some() && service.password.is_none() {
        return Err("sentinel_username: needs a sentinel_password, which may be empty".to_owned());
    }
    service.tls = config.tls.clone().filter(|_| !is_plain);
    config.address = Address::Service(Box::new(service));
    Ok(Target::Redis(Box::new(config)))
}

/// `[login@]node,node`; the nodes name the others.
fn cluster(rest: &str, tls: Option<Tls>) -> Parsed<Target> {
    if !cfg!(any(target_os = "linux", target_os = "android")) {
        return Err("redis-cluster:// needs Linux".to_owned());
    }
    let url = Parts::of(rest)?;
    if !url.path.is_empty() {
        return Err("a cluster has one database: nothing may stand behind the nodes of redis-cluster://".to_owned());
    }
    let mut nodes = Vec::new();
    for host in url.hosts.split(',') {
        let node = tcp_address(host, DEFAULT_PORT)?;
        if !nodes.contains(&node) {
            nodes.push(node);
        }
    }
    let config = url.config(nodes[0].clone(), tls, OF_TCP, no_other)?;
    Ok(Target::Cluster(nodes, Box::new(config)))
}

/// `[login@]server,server,server[/db]`; all else is the same for all.
fn quorum(rest: &str, tls: Option<Tls>) -> Parsed<Target> {
    if !cfg!(any(target_os = "linux", target_os = "android")) {
        return Err("redis-quorum:// needs Linux".to_owned());
    }
    let url = Parts::of(rest)?;
    let mut addresses: Vec<Address> = Vec::new();
    for (i, host) in url.hosts.split(',').enumerate() {
        let number = i + 1;
        let address = tcp_address(host, DEFAULT_PORT).map_err(|problem| format!("server {number}: {problem}"))?;
        let is_same = |other: &Address| other.to_string().eq_ignore_ascii_case(&address.to_string());
        if let Some(same) = addresses.iter().position(is_same) {
            return Err(format!("servers {} and {number} are the same", same + 1));
        }
        addresses.push(address);
    }
    if !QUORUM_SIZES.contains(&addresses.len()) {
        return Err(format!("names {} servers; a quorum has 3, 5 or 7", addresses.len()));
    }
    for (name, _) in parameters(url.query)? {
        if ["replicas", "replicas_timeout_ms", "aof"].contains(&name.as_str()) {
            return Err(format!(
                "{name}: not with redis-quorum://, whose servers are to have no replicas and need no disk"
            ));
        }
    }
    let config = url.config(addresses[0].clone(), tls, OF_QUORUM, no_other)?;
    let at = |address| Config { address, ..config.clone() };
    Ok(Target::Quorum(addresses.into_iter().map(at).collect()))
}

fn unix(rest: &str) -> Parsed<Target> {
    let (path, query) = parts(rest)?;
    if !path.starts_with('/') || path.len() < 2 {
        return Err("must name a path from the root, as in redis+unix:///run/redis.sock".to_owned());
    }
    let mut config = Config::new(Address::Unix(PathBuf::from(decoded("the path", path)?)));
    let (mut user, mut password) = (None, None);
    for (name, value) in parameters(query)? {
        match name.as_str() {
            "db" => config.database = database(&value)?,
            "user" => user = Some(value),
            "pass" => password = Some(value),
            _ if common(&mut config, &name, &value)? => {}
            _ => {
                return Err(unknown(&name, query, OF_UNIX));
            }
        }
    }
    // They are decoded already, as all parameters.
    check_login(user.as_deref(), password.as_deref())?;
    config.username = user.filter(|user| !user.is_empty());
    config.password = password;
    check_whole(&config)?;
    Ok(Target::Redis(Box::new(config)))
}

/// What stands before the `?`, and what behind it.
fn parts(rest: &str) -> Parsed<(&str, &str)> {
    if rest.contains('#') {
        return Err("must not contain `#`; in a password it is written %23".to_owned());
    }
    Ok(rest.split_once('?').unwrap_or((rest, "")))
}

fn tcp_address(text: &str, default_port: u16) -> Parsed<Address> {
    let (host, port) = if let Some(inside) = text.strip_prefix('[') {
        let (host, behind) = inside.split_once(']').ok_or("the host begins with `[` and has no `]`")?;
        let port =
            if behind.is_empty() { "" } else { behind.strip_prefix(':').ok_or("there is something behind `]`")? };
        (host, port)
    } else {
        let (host, port) = text.split_once(':').unwrap_or((text, ""));
        if port.contains(':') {
            return Err(
                "the host has several `:`; an IPv6 address stands in brackets, as in redis://[::1]:6379".to_owned()
            );
        }
        (host, port)
    };
    let host = decoded("the host", host)?;
    check_host(&host).map_err(|problem| format!("the host {problem}"))?;
    let port = match port {
        "" => default_port,
        port => digits(port).and_then(|port| port.parse().ok()).filter(|&port| port != 0).ok_or(
            "the port must be a number from 1 to 65535 (in a password, `/`, `?`, `#` and `@` are written %2F, %3F, %23, %40)",
        )?,
    };
    Ok(Address::Tcp { host, port })
}

fn digits(text: &str) -> Option<&str> {
    (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())).then_some(text)
}

fn database(text: &str) -> Parsed<i64> {
    let number = digits(text).and_then(|text| text.parse::<i32>().ok());
    number.map(i64::from).ok_or_else(|| "the database must be a number, as in redis://host/3 or ?db=3".to_owned())
}

/// What stands in front of the `@`.
fn set_login(config: &mut Config, login: Option<&str>) -> Parsed<()> {
    let Some(login) = login else { return Ok(()) };
    let (user, password) = login.split_once(':').map_or((login, None), |(user, word)| (user, Some(word)));
    check_login(Some(user), password)?;
    let user = Some(decoded("the user", user)?).filter(|user| !user.is_empty());
    let password = password.map(|word| decoded("the password", word)).transpose()?;
    // `redis://:@host`, as templates make it where there is no password.
    config.password = password.filter(|word| user.is_some() || !word.is_empty());
    config.username = user;
    Ok(())
}

fn check_login(user: Option<&str>, password: Option<&str>) -> Parsed<()> {
    if user.is_some_and(|user| !user.is_empty()) && password.is_none() {
        return Err(
            "names a user and no password; one that needs none is written user:@host, or user=…&pass=".to_owned()
        );
    }
    Ok(())
}

/// Those after the `?`, decoded. `+` stands for itself: paths and passwords contain it.
fn parameters(query: &str) -> Parsed<Vec<(String, String)>> {
    let mut all: Vec<(String, String)> = Vec::new();
    for (i, one) in query.split('&').filter(|one| !one.is_empty()).enumerate() {
        let number = i + 1;
        let Some((name, value)) = one.split_once('=') else {
            return Err(format!("parameter {number} has no `=`"));
        };
        let name = decoded(&format!("the name of parameter {number}"), name)?;
        let value = decoded(&format!("the value of parameter {number}"), value)?;
        if all.iter().any(|(other, _)| *other == name) {
            return Err(format!("parameter {number} is given twice"));
        }
        all.push((name, value));
    }
    Ok(all)
}

fn decoded(what: &str, text: &str) -> Parsed<String> {
    let text = percent_decode_str(text).decode_utf8().map_err(|_| format!("{what} is not UTF-8 when decoded"))?;
    if text.contains('\0') {
        return Err(format!("{what} contains NUL"));
    }
    Ok(text.into_owned())
}

/// Named only where it cannot be a piece of a password that was not encoded.
fn unknown(name: &str, query: &str, known: &str) -> String {
    let is_secret = |one: &str| one.starts_with("pass=") || one.starts_with("sentinel_password=");
    let harmless = !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') && name.len() <= 24;
    if harmless && !query.contains('@') && !query.split('&').any(is_secret) {
        return format!("there is no parameter {name}; known are {known}");
    }
    format!("a parameter is unknown; known are {known} (in a password `?` and `&` are %3F and %26)")
}

/// The parameters that every server has. False: it is none of them.
fn common(config: &mut Config, name: &str, value: &str) -> Parsed<bool> {
    match name {
        "client_name" => {
            // What the server takes.
            let usable =
                !value.is_empty() && value.len() <= CLIENT_NAME_MAX && value.bytes().all(|b| b.is_ascii_graphic());
            if !usable {
                return Err(format!("client_name: 1 to {CLIENT_NAME_MAX} characters of ASCII, without spaces"));
            }
            config.client_name = value.to_owned();
        }
        "keepalive_ms" => {
            let ms = digits(value).and_then(|value| value.parse::<u64>().ok());
            let ms = ms.filter(|&ms| ms == 0 || (100..=super::TIMEOUT_MAX_MS).contains(&ms));
            let ms = ms.ok_or_else(|| format!("keepalive_ms: 0 for none, or from 100 to {}", super::TIMEOUT_MAX_MS))?;
            config.keep_alive = (ms > 0).then(|| std::time::Duration::from_millis(ms));
        }
        "replicas" => {
            let count = digits(value).and_then(|value| value.parse().ok()).filter(|&count| count <= REPLICAS_MAX);
            copies(config).replicas = count.ok_or_else(|| format!("replicas: must be from 1 to {REPLICAS_MAX}"))?;
        }
        "replicas_timeout_ms" => {
            let ms = digits(value).and_then(|value| value.parse::<u64>().ok());
            let ms = ms.filter(|ms| (1..=super::TIMEOUT_MAX_MS).contains(ms));
            let ms = ms.ok_or_else(|| format!("replicas_timeout_ms: must be from 1 to {}", super::TIMEOUT_MAX_MS))?;
            copies(config).timeout = std::time::Duration::from_millis(ms);
        }
        "aof" if value == "1" => copies(config).on_disk = true,
        "aof" => return Err("aof: can only be 1".to_owned()),
        _ => return Ok(false),
    }
    Ok(true)
}

fn copies(config: &mut Config) -> &mut Copies {
    config.copies.get_or_insert(Copies { replicas: 0, on_disk: false, timeout: Copies::TIMEOUT })
}

/// The parameters of TLS. False: it is none of them.
fn secured(config: &mut Config, name: &str, value: &str) -> Parsed<bool> {
    if !["ca", "cert", "key", "server_name"].contains(&name) {
        return Ok(false);
    }
    let Some(tls) = &mut config.tls else {
        return Err(format!("{name}: only with rediss://, rediss-sentinel://, rediss-cluster:// or rediss-quorum://"));
    };
    if value.is_empty() {
        return Err(format!("{name}: must not be empty"));
    }
    match name {
        "ca" => tls.ca = Some(value.into()),
        "cert" => tls.cert = Some(value.into()),
        "key" => tls.key = Some(value.into()),
        _ => {
            Tls::check_server_name(value).map_err(|problem| format!("server_name: {problem}"))?;
            tls.server_name = Some(value.to_owned());
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests;
