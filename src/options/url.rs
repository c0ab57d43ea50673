//! A URL into what it says: where the server is, or the servers are, how to be let in, how to be known. Does no I/O and opens no file.
//!
//! Written by hand, since no message may repeat what could be a password: a URL that is wrong is often one whose password
//! was not percent-encoded, and then any of its parts may be a piece of it.

use std::path::PathBuf;

use percent_encoding::percent_decode_str;

use super::{Target, check_host, invalid};
use crate::error::Result;
use crate::store::redis::{Address, Config, Tls};

/// Redis' own, for `redis://` and `rediss://` alike.
pub const DEFAULT_PORT: u16 = 6379;
const SCHEMES: &str = "redis://, rediss://, redis+unix://, redis-quorum://, rediss-quorum:// or memory://";
/// How many servers a quorum may have.
const QUORUM_SIZES: [usize; 3] = [3, 5, 7];
/// The longest client name.
const CLIENT_NAME_MAX: usize = 128;

pub fn parse(url: &str) -> Result<Target> {
    let Some((scheme, rest)) = url.split_once("://") else { return Err(bad(format!("must begin with {SCHEMES}"))) };
    let read = match scheme {
        "memory" => return Ok(Target::Memory(rest.to_owned())),
        "redis" => tcp(rest, None),
        "rediss" if cfg!(feature = "tls") => tcp(rest, Some(Tls::default())),
        "redis-quorum" => return quorum(rest, None).map(Target::Quorum).map_err(bad),
        "rediss-quorum" if cfg!(feature = "tls") => {
            return quorum(rest, Some(Tls::default())).map(Target::Quorum).map_err(bad);
        }
        "rediss" | "rediss-quorum" => {
            let text = format!("{scheme}:// needs TLS, which this build of dlock does not have (feature `tls`)");
            return Err(bad(text));
        }
        "redis+unix" => unix(rest),
        _ => return Err(bad(format!("must begin with {SCHEMES}"))),
    };
    read.map(|config| Target::Redis(Box::new(config))).map_err(bad)
}

fn bad(problem: impl std::fmt::Display) -> crate::Error {
    invalid(format!("url: {problem}"))
}

/// What is wrong, in words that repeat nothing of the URL but names of parameters.
type Parsed<T> = std::result::Result<T, String>;

fn tcp(rest: &str, tls: Option<Tls>) -> Parsed<Config> {
    let (place, query) = parts(rest)?;
    let (authority, path) = place.split_once('/').unwrap_or((place, ""));
    let (login, host) = authority.rsplit_once('@').map_or((None, authority), |(login, host)| (Some(login), host));
    let (host, port) = host_and_port(host)?;
    let mut config = Config::new(Address::Tcp { host, port });
    config.tls = tls;
    if let Some(login) = login {
        let (user, password) = login.split_once(':').map_or((login, None), |(user, word)| (user, Some(word)));
        set_login(&mut config, Some(user), password)?;
    }
    if !path.is_empty() {
        config.database = database(path)?;
    }
    for (name, value) in parameters(query)? {
        let known = common(&mut config, &name, &value)? || secured(&mut config, &name, &value)?;
        if !known {
            return Err(unknown(
                &name,
                query,
                "client_name, keepalive_ms; with rediss:// also ca, cert, key, server_name",
            ));
        }
    }
    match &config.tls {
        Some(tls) if tls.cert.is_some() != tls.key.is_some() => Err("cert and key: both or neither".to_owned()),
        _ => Ok(config),
    }
}

/// As many servers as there are between commas; all else is the same for all.
fn quorum(rest: &str, tls: Option<Tls>) -> Parsed<Vec<Config>> {
    if !cfg!(any(target_os = "linux", target_os = "android")) {
        return Err("a quorum needs Linux".to_owned());
    }
    let place = parts(rest)?.0;
    let authority_end = place.find('/').unwrap_or(place.len());
    let hosts_begin = place[..authority_end].rfind('@').map_or(0, |at| at + 1);
    let (login, hosts, behind) = (&rest[..hosts_begin], &rest[hosts_begin..authority_end], &rest[authority_end..]);
    let mut servers: Vec<Config> = Vec::new();
    for (i, host) in hosts.split(',').enumerate() {
        let number = i + 1;
        host_and_port(host).map_err(|problem| format!("server {number}: {problem}"))?;
        let config = tcp(&format!("{login}{host}{behind}"), tls.clone())?;
        let place = config.address.to_string();
        if let Some(same) = servers.iter().position(|other| other.address.to_string().eq_ignore_ascii_case(&place)) {
            return Err(format!("servers {} and {number} are the same", same + 1));
        }
        servers.push(config);
    }
    let count = servers.len();
    if QUORUM_SIZES.contains(&count) {
        Ok(servers)
    } else {
        Err(format!("names {count} servers; a quorum has 3, 5 or 7"))
    }
}

fn unix(rest: &str) -> Parsed<Config> {
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
            _ => return Err(unknown(&name, query, "db, user, pass, client_name, keepalive_ms")),
        }
    }
    // They are decoded already, as all parameters.
    check_login(user.as_deref(), password.as_deref())?;
    config.username = user.filter(|user| !user.is_empty());
    config.password = password;
    Ok(config)
}

/// What stands before the `?`, and what behind it.
fn parts(rest: &str) -> Parsed<(&str, &str)> {
    if rest.contains('#') {
        return Err("must not contain `#`; in a password it is written %23".to_owned());
    }
    Ok(rest.split_once('?').unwrap_or((rest, "")))
}

fn host_and_port(text: &str) -> Parsed<(String, u16)> {
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
        "" => DEFAULT_PORT,
        port => digits(port).and_then(|port| port.parse().ok()).filter(|&port| port != 0).ok_or(
            "the port must be a number from 1 to 65535 (in a password, `/`, `?`, `#` and `@` are written %2F, %3F, %23, %40)",
        )?,
    };
    Ok((host, port))
}

fn digits(text: &str) -> Option<&str> {
    (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())).then_some(text)
}

fn database(text: &str) -> Parsed<i64> {
    let number = digits(text).and_then(|text| text.parse::<i32>().ok());
    number.map(i64::from).ok_or_else(|| "the database must be a number, as in redis://host/3 or ?db=3".to_owned())
}

/// A user and a password as they stand in the URL.
fn set_login(config: &mut Config, user: Option<&str>, password: Option<&str>) -> Parsed<()> {
    check_login(user, password)?;
    let user = user.map(|user| decoded("the user", user)).transpose()?.filter(|user| !user.is_empty());
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
    let harmless = name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') && name.len() <= 24;
    if harmless && !query.contains('@') && !query.split('&').any(|one| one.starts_with("pass=")) {
        return format!("there is no parameter {name}; known are {known}");
    }
    format!("a parameter is unknown; known are {known} (in a password, `?` and `&` are written %3F and %26)")
}

/// The parameters of every server. False: it is none of them.
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
        _ => return Ok(false),
    }
    Ok(true)
}

/// The parameters of TLS. False: it is none of them.
fn secured(config: &mut Config, name: &str, value: &str) -> Parsed<bool> {
    if !["ca", "cert", "key", "server_name"].contains(&name) {
        return Ok(false);
    }
    let Some(tls) = &mut config.tls else { return Err(format!("{name}: only with rediss://")) };
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
