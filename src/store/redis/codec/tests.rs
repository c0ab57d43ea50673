use std::sync::Arc;

use uuid::Uuid;

use super::*;
use crate::store::{Name, Seat};

fn request(op: Op) -> Request {
    let acquisition = Acquisition { owner: Uuid::from_u128(0xabc), attempt: 12 };
    let seat = Seat { claim_ms: 3000, channel: Arc::from("chan@nel") };
    Request { name: Arc::new(Name::new("n", "g").unwrap()), acquisition, seat, op }
}

fn arguments(op: Op, with_text: bool) -> Vec<String> {
    arguments_in(Layout::Server, op, if with_text { Form::Text } else { Form::Hash })
}

fn arguments_in(layout: Layout, op: Op, form: Form) -> Vec<String> {
    let mut out = Vec::new();
    Encoder { layout, ..Encoder::default() }.encode(&mut out, &Scripts::new(), &request(op), form);
    let (mut at, mut all) = (0, Vec::new());
    while at < out.len() {
        let (value, length) = resp::parse(&out[at..]).unwrap().expect("a whole command");
        at += length;
        let Value::Array(parts) = value else { panic!("a command is an array") };
        all.extend(parts.iter().map(|part| part.text().unwrap().to_owned()));
    }
    all
}

#[test]
fn a_try_is_one_transaction() {
    let acquisition = request(Op::Inspect).acquisition.to_string();
    let expected = ["MULTI", "SET", "g:n", &acquisition, "NX", "PX", "30000", "INCR", ":dlock:fence", "EXEC"];
    assert_eq!(arguments(Op::Try { lease_ms: 30000 }, false), expected);
}

#[test]
fn scripts_are_called_by_hash_and_resent_by_text() {
    let (scripts, request) = (Scripts::new(), request(Op::Inspect));
    let (queue, owner) = (request.name.waiters().to_owned(), request.acquisition.owner.to_string());
    let (member, acquisition) = (request.member(), request.acquisition.to_string());
    let join = Op::Join { lease_ms: 30000, place: 5, queue: true };
    let expected = ["EVALSHA", &scripts.join.sha, "3", "g:n", &queue, FENCE, &owner, "12", "30000", &member, "5", "1"];
    assert_eq!(arguments(join, false), expected);
    let release = arguments(Op::Release { leave: true }, true);
    assert_eq!(release[..2], ["EVAL".to_owned(), scripts.release.body.to_owned()]);
    assert_eq!(release[6..], [&acquisition, &member, "leave"].map(str::to_owned));
    assert_eq!(arguments(Op::Renew { lease_ms: 1 }, false)[2..5], ["2".to_owned(), "g:n".to_owned(), queue]);
    assert_eq!(arguments(Op::Inspect, false), ["GET", "g:n"]);
}

#[test]
fn in_a_cluster_the_counter_and_sharded_channels_bear_the_tag_of_the_slot() {
    let tag = request(Op::Inspect).name.tag().to_owned();
    let fence = format!(":dlock:fence:{tag}");
    let sharded = Layout::Cluster { sharded: true };
    assert_eq!(arguments_in(sharded, Op::Try { lease_ms: 1 }, Form::Hash)[8], fence);
    let join = Op::Join { lease_ms: 1, place: 0, queue: true };
    for (layout, channel) in
        [(sharded, format!(":dlock:wake:{tag}:chan@nel")), (Layout::Cluster { sharded: false }, "chan@nel".to_owned())]
    {
        let joins = arguments_in(layout, join, Form::Hash);
        assert_eq!(joins[5], fence);
        assert!(joins[9].ends_with(&format!("@3000@{channel}")), "{}", joins[9]);
    }
    let renews = arguments_in(sharded, Op::Renew { lease_ms: 1 }, Form::KeyAlone);
    assert_eq!((renews[0].as_str(), &renews[2..4]), ("EVAL", &["1".to_owned(), "g:n".to_owned()][..]));
}

/// What a request makes of the replies on the wire.
fn reply(op: Op, wire: &str) -> Result<Reply, Unexpected> {
    let (mut replies, mut at) = (Replies::default(), 0);
    loop {
        let (value, length) = resp::parse(&wire.as_bytes()[at..]).unwrap().expect("enough replies");
        at += length;
        if let Some(reply) = replies.take(op, &value)? {
            assert_eq!(at, wire.len(), "all replies used");
            return Ok(reply);
        }
    }
}

fn error(class: ErrorClass, text: &str) -> ServerError {
    ServerError { class, text: text.into() }
}

#[test]
fn replies_to_a_try() {
    let tried = |wire: &str| reply(Op::Try { lease_ms: 1 }, wire).unwrap();
    let queued = "+OK\r\n+QUEUED\r\n+QUEUED\r\n";
    assert_eq!(tried(&format!("{queued}*2\r\n+OK\r\n:7\r\n")), Reply::Taken { token: 7 });
    assert_eq!(tried(&format!("{queued}*2\r\n$-1\r\n:8\r\n")), Reply::Held { place: 8, remaining_ms: None });
    assert_eq!(tried(&format!("{queued}*2\r\n+OK\r\n:-8\r\n")), Reply::Taken { token: 0 });
    let undrawn = error(ErrorClass::Report, "ERR value is not an integer or out of range (:dlock:fence)");
    let wire = format!("{queued}*2\r\n+OK\r\n-ERR value is not an integer or out of range\r\n");
    assert_eq!(tried(&wire), Reply::TakenUndrawn { error: undrawn });
    let oom = "-OOM command not allowed when used memory > 'maxmemory'.\r\n";
    let wire = format!("+OK\r\n{oom}{oom}-EXECABORT Transaction discarded because of previous errors.\r\n");
    let full = error(ErrorClass::Memory, "OOM command not allowed when used memory > 'maxmemory'.");
    assert_eq!(tried(&wire), Reply::Error(full));
    let noauth = "-NOAUTH Authentication required.\r\n";
    let refused = error(ErrorClass::Reconnect, "NOAUTH Authentication required.");
    assert_eq!(tried(&noauth.repeat(4)), Reply::Error(refused));
    let wire = "-NOPERM no MULTI\r\n+OK\r\n:5\r\n-ERR EXEC without MULTI\r\n";
    let noperm = error(ErrorClass::Report, "NOPERM no MULTI");
    assert_eq!(tried(wire), Reply::TakenUndrawn { error: noperm }, "set outside a transaction: to be released");
    assert_eq!(reply(Op::Try { lease_ms: 1 }, &format!("{queued}*-1\r\n")), Err(Unexpected));
}

#[test]
fn replies_to_an_inspection() {
    let seen = |wire: &str| reply(Op::Inspect, wire).unwrap();
    let acquisition = request(Op::Inspect).acquisition;
    let bulk = |text: &str| format!("${}\r\n{text}\r\n", text.len());
    assert_eq!(seen("$-1\r\n"), Reply::Holder(Holder::Nobody));
    assert_eq!(seen(&bulk(&acquisition.to_string())), Reply::Holder(Holder::Acquisition(acquisition)));
    let upper = acquisition.to_string().to_uppercase();
    assert_eq!(seen(&bulk(&upper)), Reply::Holder(Holder::Foreign(Some(upper))));
    assert_eq!(seen("$0\r\n\r\n"), Reply::Holder(Holder::Foreign(Some(String::new()))));
    let wrong = "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n";
    assert_eq!(seen(wrong), Reply::Holder(Holder::Foreign(None)));
}

#[test]
fn answers_of_the_scripts() {
    let said = |wire: &str| reply(Op::Release { leave: false }, wire);
    let acquisition = request(Op::Inspect).acquisition;
    assert_eq!(said("*2\r\n$5\r\ntaken\r\n$2\r\n42\r\n"), Ok(Reply::Taken { token: 42 }));
    assert_eq!(said("*2\r\n$4\r\nheld\r\n:-1\r\n"), Ok(Reply::Held { place: 0, remaining_ms: None }));
    let queued = Reply::Queued { place: 9, remaining_ms: Some(5), waiters: 1 };
    assert_eq!(said("*4\r\n$6\r\nqueued\r\n$1\r\n9\r\n:5\r\n:1\r\n"), Ok(queued));
    let full = error(ErrorClass::Memory, "@user_script: 9: -OOM no");
    assert_eq!(
        said("*2\r\n$8\r\nunqueued\r\n$24\r\n@user_script: 9: -OOM no\r\n"),
        Ok(Reply::Unqueued { error: full })
    );
    assert_eq!(said("$7\r\nnotmine\r\n"), Ok(Reply::NotMine(Holder::Nobody)));
    assert_eq!(said("*2\r\n$7\r\nnotmine\r\n$-1\r\n"), Ok(Reply::NotMine(Holder::Foreign(None))));
    let wire = format!("*3\r\n$4\r\nnext\r\n$39\r\n{acquisition}\r\n$2\r\n43\r\n");
    assert_eq!(said(&wire), Ok(Reply::Released { next: Some(HandOff { acquisition, token: 43 }) }));
    for nonsense in ["+OK\r\n", "*0\r\n", "*1\r\n$5\r\ntaken\r\n", "*1\r\n$3\r\nwho\r\n", ":1\r\n", "$-1\r\n"] {
        assert_eq!(said(nonsense), Err(Unexpected), "{nonsense:?}");
    }
}
