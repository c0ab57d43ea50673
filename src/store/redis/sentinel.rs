//! The server that is a service's primary now, as its sentinels name it: asked for anew with each connection, since any may
//! be the first after a failover. Knows what sentinels answer and how they are told apart, and no lock.
//!
//! One connect is one round: sentinel after sentinel is asked, and the server that it names is taken if it says itself that
//! it is a primary. All of it has the connect timeout, of which each sentinel gets a share, so that one that does not answer
//! leaves time for the others; one that led to the primary is asked first from then on.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::handshake::{self, Named, Refused};
use super::{Address, Config, Reached, Site, Tls};
use crate::store::Unreachable;

/// A service, and the sentinels that watch it.
#[derive(Clone, PartialEq, Eq)]
pub struct Service {
    /// What the sentinels call it.
    pub name: String,
    /// Where they listen, in the order in which they are asked at first. Not empty.
    pub sentinels: Vec<Address>,
    /// The user to authenticate as at the sentinels; their default user where there is only a password.
    pub username: Option<String>,
    /// The password for the sentinels; no authentication without one.
    pub password: Option<String>,
    /// With TLS to the sentinels?
    pub tls: Option<Tls>,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service")
            .field("name", &self.name)
            .field("sentinels", &self.sentinels)
            .field("username", &self.username)
            .field("password", &self.password.as_ref().map(|_| "(secret)"))
            .field("tls", &self.tls)
            .finish()
    }
}

/// What is remembered from one connection to the next.
#[derive(Default)]
pub struct Watch {
    memory: Mutex<Memory>,
    /// Rises when another server than before was found to be the primary.
    era: Arc<AtomicU64>,
    /// Did the last round fail for a reason that a failover ends?
    passing: AtomicBool,
}

#[derive(Default)]
struct Memory {
    /// Who led to the primary last comes first. Empty: the order given.
    order: Vec<usize>,
    primary: Option<Address>,
    /// Of the configuration by which it was named; the sentinels agree on a greater one with each failover.
    epoch: u64,
}

/// Until when a connection is to the primary, as far as is known: when another connection finds another primary, those to
/// the former one are over. It may not know yet that it is none any more.
pub struct Era(Option<(Arc<AtomicU64>, u64)>);

impl Era {
    /// Of a server that no other takes the place of.
    pub fn endless() -> Self {
        Era(None)
    }

    /// Can another server take this one's place, so that asking the sentinels again may lead to it?
    pub fn can_end(&self) -> bool {
        self.0.is_some()
    }

    /// `Err`: it is over.
    pub fn check(&self) -> Result<(), String> {
        match &self.0 {
            Some((current, own)) if current.load(Ordering::Relaxed) != *own => {
                Err("the sentinels name another primary now".to_owned())
            }
            _ => Ok(()),
        }
    }
}

impl Watch {
    /// Would it make sense to ask again soon?
    pub fn is_passing(&self) -> bool {
        self.passing.load(Ordering::Relaxed)
    }

    /// One round: shakes hands with the primary. `Err` tells who was asked and what each said.
    pub fn reach<T>(
        &self,
        site: &Site,
        service: &Service,
        shake: impl Fn(&Site) -> Result<T, Refused>,
    ) -> Result<(T, Reached), Unreachable> {
        let mut round = Round::new(site, service);
        let (order, epoch) = self.recall(service);
        let (mut older, mut left) = (Vec::new(), order.len());
        for which in order {
            left -= 1;
            match round.ask(which, left) {
                // It has not heard of the last failover yet. Better than nothing, should nobody know more.
                Some(named) if named.epoch < epoch => older.push((which, named)),
                Some(named) => {
                    if let Some(shaken) = round.try_primary(which, &named, left, &shake) {
                        return Ok((shaken, self.remember(service, which, named)));
                    }
                }
                None => {}
            }
            if round.is_over() {
                break;
            }
        }
        for (which, named) in older {
            if let Some(shaken) = round.try_primary(which, &named, 0, &shake) {
                return Ok((shaken, self.remember(service, which, named)));
            }
        }
        self.passing.store(round.passing, Ordering::Relaxed);
        Err(Unreachable(round.report()))
    }

    fn recall(&self, service: &Service) -> (Vec<usize>, u64) {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        if memory.order.is_empty() {
            memory.order = (0..service.sentinels.len()).collect();
        }
        (memory.order.clone(), memory.epoch)
    }

    fn remember(&self, service: &Service, which: usize, named: Named) -> Reached {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        memory.order = (0..service.sentinels.len()).filter(|&other| other != which).collect();
        memory.order.insert(0, which);
        memory.epoch = named.epoch;
        let text = named.address.to_string();
        if memory.primary.as_ref() != Some(&named.address) {
            memory.primary = Some(named.address);
            self.era.fetch_add(1, Ordering::Relaxed);
        }
        let era = Era(Some((Arc::clone(&self.era), self.era.load(Ordering::Relaxed))));
        Reached { address: text.into(), era }
    }
}

/// What has been asked and answered in one round.
struct Round<'a> {
    site: &'a Site,
    service: &'a Service,
    deadline: Instant,
    /// The servers that were tried and will not do.
    tried: Vec<Address>,
    passing: bool,
    unknown: bool,
    /// What was answered, and by whom.
    said: Vec<(String, Vec<&'a Address>)>,
}

impl<'a> Round<'a> {
    fn new(site: &'a Site, service: &'a Service) -> Self {
        let deadline = Instant::now() + site.config.connect_timeout;
        Round { site, service, deadline, tried: Vec::new(), passing: false, unknown: false, said: Vec::new() }
    }

    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    fn is_over(&self) -> bool {
        self.left().is_zero()
    }

    /// Asks one sentinel; `others` come after it.
    fn ask(&mut self, which: usize, others: usize) -> Option<Named> {
        let Service { name, username, password, tls, sentinels } = self.service;
        // Half of a share each for connecting and for the answer. One share is the primary's.
        let time = (self.left() / (2 * (others as u32 + 2))).max(Duration::from_millis(1));
        let config = Config {
            address: sentinels[which].clone(),
            tls: tls.clone(),
            username: username.clone(),
            password: password.clone(),
            connect_timeout: time,
            response_timeout: time,
            ..self.site.config.clone()
        };
        match handshake::with_sentinel(&self.site.with(config, false), name) {
            Ok(Some(named)) => Some(named),
            Ok(None) => {
                self.unknown = true;
                self.note(which, "no such service");
                None
            }
            Err(Refused { why, .. }) => {
                let text = why.0.strip_prefix(&format!("{}: ", sentinels[which])).unwrap_or(&why.0);
                self.note(which, text);
                None
            }
        }
    }

    /// Shakes hands with a server that was named, unless that was tried before in this round.
    fn try_primary<T>(
        &mut self,
        which: usize,
        named: &Named,
        others: usize,
        shake: impl Fn(&Site) -> Result<T, Refused>,
    ) -> Option<T> {
        let address = &named.address;
        if self.tried.contains(address) {
            self.note(which, &format!("names {address}"));
            return None;
        }
        let time = if others == 0 { self.left() } else { self.left() / 2 };
        let connect_timeout = time.max(Duration::from_millis(1));
        let config = Config { address: address.clone(), connect_timeout, ..self.site.config.clone() };
        match shake(&self.site.with(config, true)) {
            Ok(shaken) => Some(shaken),
            Err(Refused { why, passing }) => {
                // Whoever may become the primary may pass; a refusal that is for good outweighs it.
                self.passing = passing && (self.passing || self.tried.is_empty());
                self.tried.push(address.clone());
                self.note(which, &format!("names {why}"));
                None
            }
        }
    }

    fn note(&mut self, which: usize, text: &str) {
        let sentinel = &self.service.sentinels[which];
        match self.said.iter_mut().find(|(other, _)| other == text) {
            Some((_, by)) => by.push(sentinel),
            None => self.said.push((text.to_owned(), vec![sentinel])),
        }
    }

    /// Who said what, those together who said the same: it is to fit a message of the C interface.
    fn report(&self) -> String {
        let all = match () {
            _ if !self.tried.is_empty() => "no connection to the primary",
            _ if self.unknown => "no sentinel knows it",
            _ => "no sentinel can be asked",
        };
        let mut text = format!("{}: {all}", self.site.config.address);
        for (i, (said, by)) in self.said.iter().enumerate() {
            let by: Vec<String> = by.iter().map(|sentinel| sentinel.to_string()).collect();
            text += &format!("{}{}: {said}", if i == 0 { ": " } else { "; " }, by.join(", "));
        }
        text
    }
}
