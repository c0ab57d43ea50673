//! The options of a locker.

use std::ffi::c_char;

use super::error::{dlock_error, dlock_status};
use super::guard::{self, Out, given, text};
use crate::options::Options;

/// Where the locks live and how long they last; read once, by dlock_locker_new().
///
/// Not for two threads at once. May be freed as soon as dlock_locker_new() has returned.
pub struct dlock_options(pub(super) Options);

/// Makes a set of options: `localhost:6379`, leases of 30,000 ms, renewal on, timeouts of 5,000 ms.
///
/// `out` gets the options, to be freed with dlock_options_free().
///
/// Never blocks. Any thread. Returns:
/// - `DLOCK_OK`
/// - `DLOCK_ERR_INVALID_ARGUMENT`: `out` is NULL.
/// - `DLOCK_ERR_PANIC`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dlock_options_new(out: *mut *mut dlock_options, err: *mut dlock_error) -> dlock_status {
    // SAFETY: `out` and `err` are the caller's, as the header says.
    unsafe {
        guard::call(err, || {
            let out = Out::new("out", out)?;
            out.give(dlock_options(Options::new()));
            Ok(())
        })
    }
}

/// Frees options. Lockers made with them are not concerned. NULL is fine.
///
/// Never blocks. No other call may be using the options.
#[unsafe(no_mangle)]
pub extern "C" fn dlock_options_free(options: Option<Box<dlock_options>>) {
    guard::plain((), || drop(options));
}

/// Sets the server's host: a name, an IPv4 or an IPv6 address. The text is copied.
///
/// Replaces the host of an earlier dlock_options_set_url(). No name is looked up before the connecting.
///
/// Never blocks. One thread at a time. Returns:
/// - `DLOCK_OK`
/// - `DLOCK_ERR_INVALID_ARGUMENT`: `options` or `host` is NULL; `host` is not UTF-8, or no usable host.
/// - `DLOCK_ERR_PANIC`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dlock_options_set_host(
    options: Option<&mut dlock_options>,
    host: *const c_char,
    err: *mut dlock_error,
) -> dlock_status {
    // SAFETY: `host` and `err` are the caller's, as the header says.
    unsafe { guard::call(err, || given("options", options)?.0.set_host(text("host", host)?)) }
}

/// Sets the server's TCP port, not 0. Replaces the port of an earlier dlock_options_set_url().
///
/// Never blocks. One thread at a time. Returns:
/// - `DLOCK_OK`
/// - `DLOCK_ERR_INVALID_ARGUMENT`: `options` is NULL, or `port` is 0.
/// - `DLOCK_ERR_PANIC`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dlock_options_set_port(
    options: Option<&mut dlock_options>,
    port: u16,
    err: *mut dlock_error,
) -> dlock_status {
    // SAFETY: `err` is the caller's, as the header says.
    unsafe { guard::call(err, || given("options", options)?.0.set_port(port)) }
}

/// Sets the server by a URL. The text is copied.
///
/// - `redis://[[user]:password@]host[:port][/db]`: TCP; the port is 6379 if not given.
/// - `rediss://…`: the same with TLS. Parameters: `ca`, a file with the certificates of the CAs to trust instead of the
///   platform's; `cert` and `key`, files with the client's certificate and its private key; `server_name`, the name that the
///   server's certificate must have instead of the host's. Files are PEM, and read for each connection.
/// - `redis-sentinel://[[user]:password@]host[:port][,host[:port]…]/service[/db]`: the server that these sentinels name as the
///   primary of that service, asked for with each connection; their port is 26379 if not given. `rediss-sentinel://…`: the same
///   with TLS. Parameters: `sentinel_username` and `sentinel_password`, the login at the sentinels (that in front of the hosts is
///   the servers'); `sentinel_tls=no`, TLS to the servers only.
/// - `redis-cluster://[user:password@]host[:port][,host[:port]…]`: a Redis Cluster, on Linux; `rediss-cluster://…` with
///   TLS. The nodes named are those to begin with; every lock is on the node that has its slot.
/// - `redis-quorum://[[user]:password@]host[:port],host[:port],host[:port][/db]`: 3, 5 or 7 independent servers, of which a
///   majority holds each lock; all else is the same for all of them. `rediss-quorum://…`: with TLS. On Linux only. Calls
///   answer DLOCK_ERR_NOT_CONNECTED where fewer than a majority can be used, and name those that cannot; a server that was
///   restarted or flushed cannot be used for the longest lease. No replicas may be asked for.
/// - `redis+unix:///path/to/socket`: a unix socket. Parameters: `db`, `user`, `pass`.
/// - `memory://name`: no server; one store for all lockers of this process that name it, gone with the last of them.
///   For tests. A bare `memory://` is private to its locker.
///
/// Parameters stand behind a `?`, as in `rediss://host/3?ca=/etc/ca.pem&client_name=billing`. Those of every server:
/// `client_name`, what CLIENT LIST calls the connections, "dlock" if not given; `keepalive_ms`, how long a connection may
/// be unused before a ping keeps it open, from 100 to a day, 0 for no pings, 30,000 if not given; `replicas`, how many
/// replicas (1 to 100) must have a lock for it to count as acquired or renewed, and `aof=1`, that it must be on disk, there
/// and at the primary; `replicas_timeout_ms`, how long to wait for that, 1,000 if not given, and at most half of the
/// response timeout. Too few in time: `DLOCK_ERR_LOCKER`, and the lock is given up. What is special in a URL
/// (`% / ? # @ & : [ ]`, and spaces) is written as `%` and two hexadecimal digits in a part that contains it; `+` stands for itself.
///
/// Replaces all that an earlier URL, host or port set, as a later dlock_options_set_host() or dlock_options_set_port() replaces the
/// URL's host (of a cluster, a quorum or sentinels: all its hosts; of a unix socket: the path) or port and leaves the rest, TLS and
/// login included: of two setters the last wins. A password never appears in a message.
///
/// Never blocks. One thread at a time. Returns:
/// - `DLOCK_OK`
/// - `DLOCK_ERR_INVALID_ARGUMENT`: `options` or `url` is NULL; `url` is not UTF-8, or none of the above; the message names
///   what is wrong. `rediss…` in a build without TLS.
/// - `DLOCK_ERR_PANIC`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dlock_options_set_url(
    options: Option<&mut dlock_options>,
    url: *const c_char,
    err: *mut dlock_error,
) -> dlock_status {
    // SAFETY: `url` and `err` are the caller's, as the header says.
    unsafe { guard::call(err, || given("options", options)?.0.set_url(text("url", url)?)) }
}

/// Sets how long the server keeps a lock that is not renewed, in milliseconds: from 100 to a year; 30,000 if
/// never set.
///
/// This is how long others wait for a holder that crashed.
///
/// Never blocks. One thread at a time. Returns:
/// - `DLOCK_OK`
/// - `DLOCK_ERR_INVALID_ARGUMENT`: `options` is NULL, or `lease_ms` is out of range.
/// - `DLOCK_ERR_PANIC`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dlock_options_set_lease_ms(
    options: Option<&mut dlock_options>,
    lease_ms: u64,
    err: *mut dlock_error,
) -> dlock_status {
    // SAFETY: `err` is the caller's, as the header says.
    unsafe { guard::call(err, || given("options", options)?.0.set_lease_ms(lease_ms)) }
}

/// Sets whether held locks are renewed in the background, every third of their lease; true if never set.
///
/// With false a lock is lost when its lease ends, unless dlock_lock_extend() lengthens it.
///
/// Never blocks. One thread at a time. Returns:
/// - `DLOCK_OK`
/// - `DLOCK_ERR_INVALID_ARGUMENT`: `options` is NULL.
/// - `DLOCK_ERR_PANIC`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dlock_options_set_auto_renew(
    options: Option<&mut dlock_options>,
    auto_renew: bool,
    err: *mut dlock_error,
) -> dlock_status {
    // SAFETY: `err` is the caller's, as the header says.
    unsafe { guard::call(err, || given("options", options)?.0.set_auto_renew(auto_renew)) }
}

/// Sets how long one attempt to connect may take, TLS handshake included, in milliseconds: from 1 to a day; 5,000 if never set.
/// The look-up of a host name is not bounded by it: it takes as long as the system's resolver takes.
///
/// Never blocks. One thread at a time. Returns:
/// - `DLOCK_OK`
/// - `DLOCK_ERR_INVALID_ARGUMENT`: `options` is NULL, or `timeout_ms` is out of range.
/// - `DLOCK_ERR_PANIC`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dlock_options_set_connect_timeout_ms(
    options: Option<&mut dlock_options>,
    timeout_ms: u64,
    err: *mut dlock_error,
) -> dlock_status {
    // SAFETY: `err` is the caller's, as the header says.
    unsafe { guard::call(err, || given("options", options)?.0.set_connect_timeout_ms(timeout_ms)) }
}

/// Sets how long the server may take to answer before the connection counts as lost, in milliseconds: from 1
/// to a day; 5,000 if never set. Calls without a deadline of their own also try this long to reconnect.
///
/// Never blocks. One thread at a time. Returns:
/// - `DLOCK_OK`
/// - `DLOCK_ERR_INVALID_ARGUMENT`: `options` is NULL, or `timeout_ms` is out of range.
/// - `DLOCK_ERR_PANIC`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dlock_options_set_response_timeout_ms(
    options: Option<&mut dlock_options>,
    timeout_ms: u64,
    err: *mut dlock_error,
) -> dlock_status {
    // SAFETY: `err` is the caller's, as the header says.
    unsafe { guard::call(err, || given("options", options)?.0.set_response_timeout_ms(timeout_ms)) }
}
