//! Bugs planted on purpose, one at a time, so that the simulator can show that it finds them (`make planted`). Only with
//! the feature `planted-bugs`, for tests; without it [`planted`] is a constant and nothing of this is in the library.

macro_rules! bugs {
    ($($(#[doc = $text:literal])+ $bug:ident,)+) => {
        /// What can be planted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[cfg_attr(not(feature = "planted-bugs"), allow(dead_code))]
        pub enum Bug {
            $($(#[doc = $text])+ $bug,)+
        }

        #[cfg(feature = "planted-bugs")]
        impl Bug {
            /// All of them, each with what it does.
            pub const ALL: &[(Bug, &str)] = &[$((Bug::$bug, concat!($($text),+)),)+];
        }
    };
}

bugs! {
    /// A release deletes the key whoever holds the lock.
    ReleaseOfAnybody,
    /// A renewal takes the key whoever holds the lock.
    RenewalOfAnybody,
    /// The server compares owner ids, not attempts.
    AttemptIgnored,
    /// A delayed join of an older attempt replaces a newer one.
    StaleJoinTakes,
    /// A renewal may shorten the key's life.
    RenewalShortens,
    /// A try takes a lock that is held.
    TryTakesHeld,
    /// Release deletes the key and hands over to nobody.
    NoHandOff,
    /// The hand-off does not set the key.
    HandOffUnset,
    /// The hand-off sets the key without an expiry.
    HandOffWithoutExpiry,
    /// A leave at the deadline leaves the queue, but not a lock that has just come.
    LeaveDropsLock,
    /// The token is the server's clock in milliseconds.
    TokenFromClock,
    /// Validity counts from the reply to an acquire.
    ValidFromReply,
    /// Validity counts from the reply to a renewal.
    RenewedFromReply,
    /// Validity is the whole lease, without an allowance for drifting clocks.
    NoAllowance,
    /// A reply that comes after its validity is an acquisition.
    LateReplyTaken,
    /// A number below the floor is a token.
    LowTokenTaken,
    /// A hand-off's validity counts from when it is read.
    HandOffFromReading,
    /// A hand-off that was on its way for longer than its claim is taken.
    LateHandOffTaken,
    /// A hand-off for an earlier attempt is taken.
    OldHandOffTaken,
    /// A hand-off that nobody wants is left alone.
    UnwantedHandOffKept,
    /// A hand-off is never confirmed.
    ClaimNotConfirmed,
    /// A renewal's reply counts for whatever is held now.
    OldRenewalCounts,
    /// Nobody notices that a lease runs out.
    ExpiryNotNoticed,
    /// The handle that lost its lock does not tell who watches it.
    LossNotTold,
    /// After a lost reply an attempt tries anew instead of joining.
    LostReplyTriesAnew,
    /// A repeated release that finds the lock gone reports an error.
    RepeatedReleaseFails,
    /// A call that fails leaves what it did on the server.
    NoCleanUp,
    /// A call whose deadline comes does not leave the queue.
    DeadlineStaysQueued,
    /// A cancelled call takes the lock that was on its way.
    CancelledTakes,
    /// Waiters do not ask again after subscribing anew.
    NoRecheckAfterSubscribing,
    /// Waiters never ask again by themselves.
    NoRecheckByTime,
    /// Closing leaves the locks held.
    CloseKeepsLocks,
    /// A subscription that has fallen silent is not given up.
    SilenceNotNoticed,
    /// Who was offered the lock and let the claim run out stays first in the queue.
    StoppedHeadStays,
    /// A try overwrites a key of another program.
    TryOverwritesForeign,
    /// A release deletes a key of another program.
    ReleaseDeletesForeign,
    /// A waiter that meets a key of another program does not poll.
    ForeignNotPolled,
    /// A renewal that finds a key of another program is no loss.
    ForeignLossNotTold,
    /// A new connection does not lift the counter.
    CounterNotLifted,
    /// A new connection lifts the counter no higher where the server's data may be another's than before.
    OtherDataIgnored,
}

#[cfg(not(feature = "planted-bugs"))]
pub(crate) const fn planted(_: Bug) -> bool {
    false
}

#[cfg(feature = "planted-bugs")]
mod choice {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::Bug;

    static CHOSEN: AtomicUsize = AtomicUsize::new(usize::MAX);

    /// Plants that bug, or none, in the whole process.
    pub fn plant(bug: Option<Bug>) {
        CHOSEN.store(bug.map_or(usize::MAX, |bug| bug as usize), Ordering::SeqCst);
    }

    pub(crate) fn planted(bug: Bug) -> bool {
        CHOSEN.load(Ordering::Relaxed) == bug as usize
    }
}

#[cfg(feature = "planted-bugs")]
pub use choice::plant;
#[cfg(feature = "planted-bugs")]
pub(crate) use choice::planted;
