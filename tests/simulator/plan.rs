//! What a seed decides before anything happens: how many lockers, locks and handles, their options, and which faults
//! this history has. Each kind of fault is in some histories and not in others, so that each is seen alone, too.

use super::rng::Rng;

pub const MS: u64 = 1_000;
pub const SECOND: u64 = 1_000_000;

/// Kinds of faults that strike at a time of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    BreakCommand,
    BreakRenewal,
    BreakSubscription,
    Pause,
    Crash,
    Close,
    Outage,
    SlowNetwork,
    RefuseSubscribe,
    RetryErrors,
    ReportErrors,
    OutOfMemory,
    Flush,
    QueueLost,
    KeyLost,
    ForeignKey,
    RestartEmpty,
    RestartOld,
    ClockForward,
    ClockBack,
}

pub const FAULTS: [Fault; 20] = [
    Fault::BreakCommand,
    Fault::BreakRenewal,
    Fault::BreakSubscription,
    Fault::Pause,
    Fault::Crash,
    Fault::Close,
    Fault::Outage,
    Fault::SlowNetwork,
    Fault::RefuseSubscribe,
    Fault::RetryErrors,
    Fault::ReportErrors,
    Fault::OutOfMemory,
    Fault::Flush,
    Fault::QueueLost,
    Fault::KeyLost,
    Fault::ForeignKey,
    Fault::RestartEmpty,
    Fault::RestartOld,
    Fault::ClockForward,
    Fault::ClockBack,
];

impl Fault {
    /// Losses of the counter beside each other, or beside a clock that went back, may let tokens fall (guarantees, 2): of
    /// these groups a history has one.
    const APART: [&[Fault]; 3] = [&[Fault::Flush], &[Fault::RestartEmpty, Fault::RestartOld], &[Fault::ClockBack]];

    pub fn name(self) -> &'static str {
        match self {
            Fault::BreakCommand => "command connection breaks",
            Fault::BreakRenewal => "renewal connection breaks",
            Fault::BreakSubscription => "subscription breaks",
            Fault::Pause => "process stops for a while",
            Fault::Crash => "process crashes",
            Fault::Close => "locker is closed",
            Fault::Outage => "server cannot be reached",
            Fault::SlowNetwork => "network is slow",
            Fault::RefuseSubscribe => "subscribing is refused",
            Fault::RetryErrors => "server is busy for a while",
            Fault::ReportErrors => "server answers errors for a while",
            Fault::OutOfMemory => "server is out of memory",
            Fault::Flush => "flush",
            Fault::QueueLost => "queue is lost",
            Fault::KeyLost => "lock's key is lost",
            Fault::ForeignKey => "another program sets the lock's key",
            Fault::RestartEmpty => "server restarts without data",
            Fault::RestartOld => "server restarts with old data",
            Fault::ClockForward => "server's clock jumps forward",
            Fault::ClockBack => "server's clock jumps back",
        }
    }
}

#[derive(Clone, Debug)]
pub struct LockerPlan {
    pub handles: usize,
    pub lease_ms: u64,
    pub auto_renew: bool,
    pub response_timeout_ms: u64,
    /// How much faster than the server's its clock runs, in parts per million.
    pub drift_ppm: i64,
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub lockers: Vec<LockerPlan>,
    pub names: usize,
    pub delay_us: (u64, u64),
    pub faults: Vec<Fault>,
    /// Between two faults, on average.
    pub fault_every_us: u64,
    /// A connection breaks at a message, per million; a push is sent twice, per million; a timer is late, per million.
    pub break_ppm: u64,
    pub duplicate_ppm: u64,
    pub late_ppm: u64,
    pub second_link: bool,
    /// How eagerly users ask, hold and give up.
    pub think_us: u64,
    pub hold_us: u64,
    pub cancel_ppm: u64,
    pub free_ppm: u64,
    pub faults_for_us: u64,
    pub calm_for_us: u64,
    /// Do connections end in calm, noticed at once?
    pub gentle: bool,
    /// How far the counter is ahead of the server's clock at first.
    pub counter_ahead: u64,
    /// Does everybody just wait, and who holds hold on?
    pub wait_only: bool,
}

impl Plan {
    pub fn new(rng: &mut Rng) -> Self {
        let lockers = rng.range(1, 4);
        let lockers = (0..lockers).map(|_| LockerPlan::new(rng)).collect();
        let slowest = *rng.pick(&[300, 1_000, 3_000, 20_000]);
        let mut faults: Vec<Fault> = FAULTS.into_iter().filter(|_| rng.chance(350_000)).collect();
        if rng.chance(100_000) {
            faults.clear();
        }
        let kept = *rng.pick(&Fault::APART);
        faults.retain(|fault| kept.contains(fault) || !Fault::APART.iter().any(|apart| apart.contains(fault)));
        let restarts = faults.iter().any(|fault| matches!(fault, Fault::RestartEmpty | Fault::RestartOld));
        let newcomers = faults.iter().any(|fault| matches!(fault, Fault::Crash | Fault::Close));
        let some = |rng: &mut Rng, highest: u64| if rng.flip() { 0 } else { rng.range(highest / 10, highest) };
        Plan {
            lockers,
            names: *rng.pick(&[1, 1, 2, 3]),
            delay_us: (50, slowest),
            fault_every_us: rng.spread(20 * MS, SECOND),
            break_ppm: if faults.is_empty() { 0 } else { some(rng, 40_000) },
            faults,
            duplicate_ppm: some(rng, 200_000),
            late_ppm: some(rng, 50_000),
            second_link: rng.flip(),
            think_us: rng.spread(MS, 200 * MS),
            hold_us: rng.spread(MS, 300 * MS),
            cancel_ppm: some(rng, 400_000),
            free_ppm: some(rng, 100_000),
            faults_for_us: rng.range(SECOND, 5 * SECOND),
            calm_for_us: rng.range(SECOND / 4, SECOND / 2),
            gentle: rng.flip(),
            // A newcomer has seen no token: after a restart without data it would begin at the clock (guarantees, 2).
            counter_ahead: if restarts && !newcomers { rng.below(60 * SECOND) } else { 0 },
            wait_only: false,
        }
    }
}

impl Plan {
    /// So many lockers with so many handles each, all for one lock, on a good network.
    pub fn herd(rng: &mut Rng, lockers: usize, handles: usize) -> Self {
        let locker =
            LockerPlan { handles, lease_ms: 5_000, auto_renew: true, response_timeout_ms: 3_000, drift_ppm: 0 };
        Plan {
            lockers: vec![locker; lockers],
            names: 1,
            delay_us: (50, 300),
            faults: Vec::new(),
            break_ppm: 0,
            late_ppm: 0,
            gentle: false,
            wait_only: true,
            ..Plan::new(rng)
        }
    }
}

impl LockerPlan {
    fn new(rng: &mut Rng) -> Self {
        LockerPlan {
            handles: rng.range(1, 5) as usize,
            lease_ms: rng.spread(100, 5_000),
            auto_renew: !rng.chance(250_000),
            response_timeout_ms: rng.spread(200, 3_000),
            drift_ppm: if rng.flip() { 0 } else { rng.range(0, 16_000) as i64 - 8_000 },
        }
    }
}
