//! The server's errors: what each calls for. The one place that knows their first words.

use crate::store::{ErrorClass, ServerError};

/// What an error reply calls for, by its code.
const CLASSES: [(&str, ErrorClass); 10] = [
    ("BUSY", ErrorClass::Retry),
    ("TRYAGAIN", ErrorClass::Retry),
    ("CLUSTERDOWN", ErrorClass::Retry),
    ("READONLY", ErrorClass::Reconnect),
    ("LOADING", ErrorClass::Reconnect),
    ("MASTERDOWN", ErrorClass::Reconnect),
    ("NOAUTH", ErrorClass::Reconnect),
    ("UNBLOCKED", ErrorClass::Reconnect),
    // Of a quorum's server that lost its data: its connections are made anew when it counts again.
    ("NOTMEMBER", ErrorClass::Reconnect),
    ("OOM", ErrorClass::Memory),
];

/// Does the error have this code? It is the first word; in an error that went through a script on Redis 6.2 it stands
/// behind the place in the script (`@user_script: 12: -OOM …`, `… @user_script:12: OOM …`).
pub fn has_code(text: &str, code: &str) -> bool {
    let starts = |text: &str| text.strip_prefix(code).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '));
    if starts(text) {
        return true;
    }
    let Some((_, inside)) = text.rsplit_once("@user_script:") else { return false };
    let place = inside.trim_start().trim_start_matches(|c: char| c.is_ascii_digit());
    place.strip_prefix(':').is_some_and(|rest| starts(rest.trim_start().trim_start_matches('-')))
}

/// What a user lacks the right for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    Command,
    Key,
    Channel,
}

/// Is the error that of a user without the right? (The words differ from version to version, those looked for do not.)
pub fn denied(text: &str) -> Option<Denied> {
    let noperm = has_code(text, "NOPERM") || text.contains("The user executing the script can't");
    let about = |word: &str| noperm && text.contains("access") && text.contains(word);
    match () {
        _ if about("channel") => Some(Denied::Channel),
        _ if about("key") => Some(Denied::Key),
        _ => noperm.then_some(Denied::Command),
    }
}

/// An `EXEC` that is refused ends its transaction; why it was refused stands behind that.
pub fn reason(text: &str) -> &str {
    text.strip_prefix("EXECABORT Transaction discarded because of: ").unwrap_or(text)
}

/// What a server is that answers so to one who takes it for a server of its own.
pub const A_NODE: &str = "the server is a node of a cluster (the URL must begin with redis-cluster://)";

/// Where the node of a cluster sends the client that asked it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Redirection<'a> {
    /// For this request only (`ASK`), while the slot is moved.
    pub once: bool,
    pub slot: u16,
    /// Host and port; the host may be missing.
    pub to: &'a str,
}

/// Reads `MOVED` and `ASK`, also behind what [`classify`] wrote before them.
pub fn redirection(text: &str) -> Option<Redirection<'_>> {
    let text = text.strip_prefix(A_NODE).map_or(text, |text| text.trim_start_matches(": "));
    let mut words = text.split(' ');
    let once = match words.next()? {
        "MOVED" => false,
        "ASK" => true,
        _ => return None,
    };
    let slot = words.next()?.parse().ok().filter(|&slot| usize::from(slot) < super::slot::SLOTS)?;
    Some(Redirection { once, slot, to: words.next()? })
}

/// Classifies an error reply.
pub fn classify(text: &[u8]) -> ServerError {
    let text = String::from_utf8_lossy(text);
    let text = reason(text.trim()).to_owned();
    if redirection(&text).is_some() || has_code(&text, "CROSSSLOT") {
        let text = format!("{A_NODE}: {text}");
        return ServerError { class: ErrorClass::Report, text };
    }
    let class = CLASSES.iter().find(|(code, _)| has_code(&text, code)).map_or(ErrorClass::Report, |(_, class)| *class);
    ServerError { class, text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_classified_by_their_code_wherever_a_script_puts_it() {
        for (text, class) in [
            ("BUSY Redis is busy running a script.", ErrorClass::Retry),
            ("BUSYKEY Target key name already exists.", ErrorClass::Report),
            ("EXECABORT Transaction discarded because of: BUSY Redis is busy", ErrorClass::Retry),
            ("EXECABORT Transaction discarded because of previous errors.", ErrorClass::Report),
            ("TRYAGAIN Multiple keys request during rehashing of slot", ErrorClass::Retry),
            ("CLUSTERDOWN Hash slot not served", ErrorClass::Retry),
            ("READONLY You can't write against a read only replica.", ErrorClass::Reconnect),
            ("LOADING Redis is loading the dataset in memory", ErrorClass::Reconnect),
            ("MASTERDOWN Link with MASTER is down", ErrorClass::Reconnect),
            ("NOAUTH Authentication required.", ErrorClass::Reconnect),
            ("UNBLOCKED force unblock from blocking operation", ErrorClass::Reconnect),
            ("OOM command not allowed when used memory > 'maxmemory'.", ErrorClass::Memory),
            ("@user_script: 12: -OOM command not allowed when used memory > 'maxmemory'.", ErrorClass::Memory),
            ("ERR Error running script (call to f_0a): @user_script:7: OOM command not allowed", ErrorClass::Memory),
            (
                "ERR Error running script (call to f_0a): @user_script:7: @user_script: 7: -READONLY x",
                ErrorClass::Reconnect,
            ),
            ("NOPERM this user has no permissions to run the 'incr' command", ErrorClass::Report),
            ("ERR value is not an integer or out of range", ErrorClass::Report),
            ("OOM", ErrorClass::Memory),
            ("", ErrorClass::Report),
        ] {
            assert_eq!(classify(text.as_bytes()).class, class, "{text}");
        }
        for (text, what) in [
            ("NOPERM this user has no permissions to run the 'del' command or its subcommand", Some(Denied::Command)),
            ("NOPERM User bob has no permissions to run the 'script|load' command", Some(Denied::Command)),
            ("NOPERM this user has no permissions to access one of the keys used as arguments", Some(Denied::Key)),
            ("NOPERM No permissions to access a key", Some(Denied::Key)),
            ("NOPERM User bob has no permissions to access the 'g:n' key", Some(Denied::Key)),
            (
                "NOPERM this user has no permissions to access one of the channels used as arguments",
                Some(Denied::Channel),
            ),
            ("NOPERM No permissions to access a channel", Some(Denied::Channel)),
            ("ERR The user executing the script can't access at least one of the keys mentioned", Some(Denied::Key)),
            ("ERR The user executing the script can't run this command or subcommand", Some(Denied::Command)),
            ("ERR no key to access", None),
        ] {
            assert_eq!(denied(text), what, "{text}");
        }
        assert!(classify(b"MOVED 1 127.0.0.1:7001").text.contains("cluster"));
    }
}
