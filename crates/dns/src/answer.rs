//! The answer to one question, as a pure function of the zone.
//!
//! NXDOMAIN and NODATA carry the SOA (RFC 2308), a name between the zone and a service name exists without data, and
//! ANY gets one set of records only (RFC 8482). Outside of the zone: REFUSED.

use crate::zone::{Entry, ZoneView, is_below};
use std::net::{Ipv4Addr, Ipv6Addr};

/// Seconds that the names and addresses of the servers may be remembered: they do not move.
const SERVER_TTL: u32 = 300;

/// Type of record that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// IPv4 address.
    A,
    /// IPv6 address.
    Aaaa,
    /// Start of authority.
    Soa,
    /// Name server.
    Ns,
    /// Whatever there is.
    Any,
    /// Zone transfer, which is not offered.
    Transfer,
    /// A type that this zone never has.
    Other,
}

/// A question of class IN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question<'a> {
    /// The name in full, in lower case, without a dot at its end; bytes that no host name has are escaped (`\046`).
    pub name: &'a str,
    /// What is asked for.
    pub kind: Kind,
}

/// RFC 1035 response codes that are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// There is an answer, or the name exists without such data.
    NoError,
    /// No such name.
    NxDomain,
    /// This node may not speak for the cluster at the moment.
    ServFail,
    /// Not this server's zone.
    Refused,
}

/// Whose record it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The name that was asked for, as it was written.
    Asked,
    /// A name in full.
    Name(String),
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// IPv4 address.
    A(Ipv4Addr),
    /// IPv6 address.
    Aaaa(Ipv6Addr),
    /// Name server.
    Ns(String),
    /// Start of authority.
    Soa {
        /// First name server.
        server: String,
        /// Who looks after the zone.
        contact: String,
        /// Grows with changes.
        serial: u32,
        /// Seconds that "no" may be remembered.
        minimum: u32,
    },
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Whose.
    pub owner: Owner,
    /// Seconds that it may be remembered.
    pub ttl: u32,
    /// What.
    pub data: Data,
}

/// All of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Response code.
    pub code: Code,
    /// Is the zone ours?
    pub authoritative: bool,
    /// Answers.
    pub answers: Vec<Record>,
    /// The SOA, when there is no answer.
    pub authority: Vec<Record>,
    /// Addresses of the name servers in `answers`.
    pub additional: Vec<Record>,
}

impl Answer {
    fn bare(code: Code, authoritative: bool) -> Self {
        Self { code, authoritative, answers: Vec::new(), authority: Vec::new(), additional: Vec::new() }
    }
}

/// Answers a question. `turn` is counted up by the caller: it rotates the addresses.
#[must_use]
pub fn answer(view: &ZoneView, question: &Question<'_>, turn: usize) -> Answer {
    let apex = view.apexes.iter().filter(|apex| is_below(question.name, apex)).max_by_key(|apex| apex.len());
    let Some(apex) = apex else {
        return Answer::bare(Code::Refused, false);
    };
    if !view.serving {
        return Answer::bare(Code::ServFail, false);
    }
    if question.kind == Kind::Transfer {
        return Answer::bare(Code::Refused, false);
    }
    let entry = view.names.get(question.name);
    if entry.is_none() && !has_names_below(view, question.name) {
        let mut answer = Answer::bare(Code::NxDomain, true);
        answer.authority.push(soa(view, Owner::Name(apex.clone())));
        return answer;
    }
    let mut answer = Answer::bare(Code::NoError, true);
    let at_apex = question.name == apex;
    let is_server = view.ns.iter().any(|ns| ns == question.name);
    let ttl = if is_server { SERVER_TTL } else { view.ttl };
    match question.kind {
        Kind::A => addresses(&mut answer.answers, entry, true, false, ttl, turn),
        Kind::Aaaa => addresses(&mut answer.answers, entry, false, true, ttl, turn),
        Kind::Soa if at_apex => answer.answers.push(soa(view, Owner::Asked)),
        Kind::Ns if at_apex => servers(view, &mut answer),
        Kind::Any => {
            addresses(&mut answer.answers, entry, true, false, ttl, turn);
            if answer.answers.is_empty() {
                addresses(&mut answer.answers, entry, false, true, ttl, turn);
            }
            if answer.answers.is_empty() && at_apex {
                answer.answers.push(soa(view, Owner::Asked));
            }
        }
        _ => {}
    }
    if answer.answers.is_empty() {
        answer.authority.push(soa(view, Owner::Name(apex.clone())));
    }
    answer
}

/// RFC 8020: a name exists when there is a name below it.
fn has_names_below(view: &ZoneView, name: &str) -> bool {
    view.apexes.iter().any(|apex| apex == name)
        || view.names.keys().any(|known| known.len() > name.len() && is_below(known, name))
}

fn addresses(records: &mut Vec<Record>, entry: Option<&Entry>, v4: bool, v6: bool, ttl: u32, turn: usize) {
    let Some(entry) = entry else {
        return;
    };
    let mut add = |data| {
        records.push(Record { owner: Owner::Asked, ttl, data });
    };
    if v4 {
        rotated(&entry.v4, turn).for_each(|a| add(Data::A(a)));
    }
    if v6 {
        rotated(&entry.v6, turn).for_each(|a| add(Data::Aaaa(a)));
    }
}

fn rotated<T: Copy>(list: &[T], turn: usize) -> impl Iterator<Item = T> + '_ {
    let (front, back) = list.split_at(turn.checked_rem(list.len()).unwrap_or(0));
    back.iter().chain(front).copied()
}

fn servers(view: &ZoneView, answer: &mut Answer) {
    for ns in &view.ns {
        answer.answers.push(Record { owner: Owner::Asked, ttl: SERVER_TTL, data: Data::Ns(ns.clone()) });
        let Some(entry) = view.names.get(ns) else {
            continue;
        };
        let v4 = entry.v4.iter().map(|a| Data::A(*a));
        let all = v4.chain(entry.v6.iter().map(|a| Data::Aaaa(*a)));
        answer.additional.extend(all.map(|data| Record { owner: Owner::Name(ns.clone()), ttl: SERVER_TTL, data }));
    }
}

fn soa(view: &ZoneView, owner: Owner) -> Record {
    Record {
        owner,
        ttl: view.ttl,
        data: Data::Soa {
            server: view.ns.first().cloned().unwrap_or_else(|| view.zone().to_owned()),
            contact: view.contact.clone(),
            serial: view.serial,
            minimum: 1,
        },
    }
}
