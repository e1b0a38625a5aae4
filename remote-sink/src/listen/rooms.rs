//! How many may wait at the door, and how many may be inside.

use shared::id::SourceName;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Ends a connection at once, whatever its task is doing: both directions of the socket are shut.
#[derive(Debug, Clone)]
pub struct Closer(Arc<OwnedFd>);

impl Closer {
    pub fn new(socket: OwnedFd) -> Self {
        Self(Arc::new(socket))
    }
    pub fn close(&self) {
        // A socket that is closed already is what was wanted.
        let _ = rustix::net::shutdown(&*self.0, rustix::net::Shutdown::Both);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing in here can panic between two steps that belong together.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Connections that have not shown a key yet.
///
/// When the room is full, the host with most connections in it loses its oldest: whoever fills the room with silent
/// connections pushes out its own, and an honest client always finds a place.
#[derive(Debug)]
pub struct WaitingRoom {
    places: usize,
    waiting: Mutex<(u64, Vec<Waiting>)>,
}

#[derive(Debug)]
struct Waiting {
    number: u64,
    host: IpAddr,
    closer: Closer,
}

/// A place in the waiting room; leaving it is dropping it.
#[derive(Debug)]
pub struct Place {
    room: Arc<WaitingRoom>,
    number: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.room.waiting).1.retain(|one| one.number != self.number);
    }
}

/// One host of IPv6 has a whole /64 to call from.
fn host_of(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        v4 => v4,
    }
}

impl WaitingRoom {
    pub fn new(places: usize) -> Arc<Self> {
        Arc::new(Self { places, waiting: Mutex::new((0, Vec::new())) })
    }

    pub fn enter(self: &Arc<Self>, peer: IpAddr, closer: Closer) -> Place {
        let mut guard = lock(&self.waiting);
        let (last, waiting) = &mut *guard;
        *last += 1;
        let number = *last;
        waiting.push(Waiting { number, host: host_of(peer), closer });
        while waiting.len() > self.places {
            let mut counts: HashMap<IpAddr, usize> = HashMap::new();
            waiting.iter().for_each(|one| *counts.entry(one.host).or_default() += 1);
            let most = counts.values().copied().max().unwrap_or(0);
            match waiting.iter().position(|one| counts.get(&one.host) == Some(&most)) {
                Some(oldest) => waiting.remove(oldest).closer.close(),
                None => break,
            }
        }
        Place { room: Arc::clone(self), number }
    }
}

/// Sessions of authenticated clients, in all and per source. Half of the places are for sources that have no other
/// session: a few keys in wrong hands cannot take all.
#[derive(Debug)]
pub struct Sessions {
    all: usize,
    of_one: usize,
    open: Mutex<HashMap<SourceName, usize>>,
}

/// One of the places for sessions.
#[derive(Debug)]
pub struct Admitted {
    sessions: Arc<Sessions>,
    name: SourceName,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut open = lock(&self.sessions.open);
        if let Some(count) = open.get_mut(&self.name) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.name);
            }
        }
    }
}

impl Sessions {
    pub fn new(all: usize, of_one: usize) -> Arc<Self> {
        Arc::new(Self { all, of_one, open: Mutex::new(HashMap::new()) })
    }

    /// `None` when there are too many already.
    pub fn admit(self: &Arc<Self>, name: &SourceName) -> Option<Admitted> {
        let mut open = lock(&self.open);
        let total: usize = open.values().sum();
        let own = open.get(name).copied().unwrap_or(0);
        let places = if own == 0 { self.all } else { self.all / 2 };
        if total >= places || own >= self.of_one {
            return None;
        }
        open.insert(name.clone(), own + 1);
        Some(Admitted { sessions: Arc::clone(self), name: name.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    fn pair() -> (TcpStream, Closer) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, Closer::new(listener.accept().unwrap().0.into()))
    }

    fn is_closed(client: &mut TcpStream) -> bool {
        client.set_nonblocking(true).unwrap();
        matches!(client.read(&mut [0]), Ok(0))
    }

    #[test]
    fn the_host_with_most_connections_loses_its_oldest() {
        let room = WaitingRoom::new(3);
        let (loud, quiet) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let mut clients = Vec::new();
        let mut places = Vec::new();
        for host in [quiet, loud, loud, loud] {
            let (client, closer) = pair();
            clients.push(client);
            places.push(room.enter(host, closer));
        }
        let closed: Vec<bool> = clients.iter_mut().map(is_closed).collect();
        assert_eq!(closed, [false, true, false, false]);
        drop(places);
        assert!(lock(&room.waiting).1.is_empty());
    }

    #[test]
    fn one_network_of_ipv6_is_one_host() {
        assert_eq!(host_of("2001:db8::1".parse().unwrap()), host_of("2001:db8::ffff:2".parse().unwrap()));
        assert_ne!(host_of("2001:db8::1".parse().unwrap()), host_of("2001:db8:0:1::1".parse().unwrap()));
    }

    #[test]
    fn sessions_are_counted_in_all_and_per_source() {
        let sessions = Sessions::new(6, 2);
        let (a, b): (SourceName, SourceName) = ("a".parse().unwrap(), "b".parse().unwrap());
        let one = sessions.admit(&a);
        let two = sessions.admit(&a);
        assert!(one.is_some() && two.is_some() && sessions.admit(&a).is_none());
        let three = sessions.admit(&b);
        assert!(three.is_some() && sessions.admit(&b).is_none());
        drop(one);
        assert!(sessions.admit(&b).is_some());
        drop((two, three));
        assert!(lock(&sessions.open).is_empty());
    }

    #[test]
    fn a_first_session_finds_a_place_when_others_have_several() {
        let sessions = Sessions::new(6, 3);
        let names: Vec<SourceName> = ["a", "b", "c", "d", "e"].map(|name| name.parse().unwrap()).into();
        let loud: Vec<_> = (0..3).map(|_| sessions.admit(&names[0]).unwrap()).collect();
        let quiet: Vec<_> = names[1..4].iter().map(|name| sessions.admit(name).unwrap()).collect();
        assert!(sessions.admit(&names[1]).is_none(), "a second one has to wait");
        assert!(sessions.admit(&names[4]).is_none(), "all places are taken");
        drop((loud, quiet));
    }
}
