//! One connection: what the SSH server lets it do. Everything that is not named here is refused.

use crate::listen::access::{Guest, look_up};
use crate::listen::child::{Ends, Session as Process, Start};
use crate::listen::rooms::{Admitted, Place};
use crate::listen::window::{STALLED_BYTES, Window};
use crate::listen::{Inside, Shared};
use russh::server::{Auth, ChannelOpenHandle, Handler, Msg, PublicKeyOffer, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId, Pty};
use shared::card::SshKey;
use shared::text::printable;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Keys that one connection may offer.
const OFFERS_MAX: usize = 20;
/// A stalled client is read only this often.
const STALL: Duration = Duration::from_millis(5);

/// Why a connection ends early.
#[derive(Debug, thiserror::Error)]
pub enum DoorError {
    #[error(transparent)]
    Ssh(#[from] russh::Error),
    #[error("too many keys were offered")]
    Offers,
    #[error("more was sent than the window allows")]
    Flood,
}

/// The handler of one connection.
#[derive(Debug)]
pub struct Door {
    shared: Arc<Shared>,
    peer: SocketAddr,
    local: SocketAddr,
    inside: watch::Sender<Inside>,
    place: Option<Place>,
    offers: usize,
    admitted: Option<(Guest, Admitted)>,
    channel: Option<(ChannelId, Option<Process>)>,
    window: Window,
}

impl Door {
    pub fn new(
        shared: Arc<Shared>,
        (peer, local): (SocketAddr, SocketAddr),
        place: Place,
        inside: watch::Sender<Inside>,
    ) -> Self {
        let window = Window::new(Arc::clone(&shared.windows));
        let place = Some(place);
        Self { shared, peer, local, inside, place, offers: 0, admitted: None, channel: None, window }
    }

    fn log(&self, what: &str) {
        self.shared.log.line(self.peer, what);
    }

    async fn guest(&self, key: &russh::keys::PublicKey) -> Option<Guest> {
        let Some(key) = key.key_data().ed25519().map(|key| SshKey::from_ed25519(&key.0)) else {
            self.shared.log.detail(self.peer, "refused: not an ssh-ed25519 key");
            return None;
        };
        let (layout, peer) = (self.shared.layout.clone(), self.peer.ip());
        // Reading enrolments is disk work: not on the threads that move bytes.
        match tokio::task::spawn_blocking(move || look_up(&layout, &key, peer)).await {
            Ok(Ok(guest)) => Some(guest),
            Ok(Err(refusal)) => {
                self.log(&format!("refused: {refusal}"));
                None
            }
            Err(e) => {
                self.log(&format!("refused: {e}"));
                None
            }
        }
    }

    /// Starts the session's process, whatever command the client asked for.
    fn start(&mut self, channel: ChannelId, session: &mut Session) -> Result<(), DoorError> {
        let start = match (&self.admitted, &self.channel) {
            (Some((guest, _)), Some((open, None))) if *open == channel => {
                self.shared.serve(guest, self.peer, self.local)
            }
            _ => return Ok(session.channel_failure(channel)?),
        };
        match self.process(&start, channel, session) {
            Ok(process) => {
                self.channel = Some((channel, Some(process)));
                self.inside.send_replace(Inside::Busy);
                Ok(session.channel_success(channel)?)
            }
            Err(e) => {
                self.log(&format!("cannot start the session: {e}"));
                Ok(session.channel_failure(channel)?)
            }
        }
    }

    fn process(&self, start: &Start, channel: ChannelId, session: &Session) -> std::io::Result<Process> {
        let (inside, running) = (self.inside.clone(), self.shared.running.clone());
        Process::start(start, Ends { client: session.handle(), channel, inside, _running: running })
    }

    fn running(&mut self, channel: ChannelId) -> Option<&mut Process> {
        self.channel.as_mut().filter(|(open, _)| *open == channel)?.1.as_mut()
    }

    fn refuse(&self, what: &str, channel: ChannelId, session: &mut Session) -> Result<(), DoorError> {
        self.log(&format!("refused: {what}"));
        Ok(session.channel_failure(channel)?)
    }
}

impl Handler for Door {
    type Error = DoorError;

    async fn auth_publickey_offered(&mut self, _user: &str, offer: PublicKeyOffer<'_>) -> Result<Auth, DoorError> {
        self.offers += 1;
        if self.offers > OFFERS_MAX {
            return Err(DoorError::Offers);
        }
        Ok(if self.guest(offer.public_key).await.is_some() { Auth::Accept } else { Auth::reject() })
    }

    async fn auth_publickey(&mut self, _user: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, DoorError> {
        let Some(guest) = self.guest(key.public_key).await else { return Ok(Auth::reject()) };
        let Some(admitted) = self.shared.sessions.admit(&guest.name) else {
            self.log(&format!("refused: too many sessions, of {} or in all", guest.name));
            return Ok(Auth::reject());
        };
        self.log(&format!("{} came in (role {})", guest.name, guest.role));
        self.admitted = Some((guest, admitted));
        self.place = None;
        self.inside.send_replace(Inside::Idle);
        Ok(Auth::Accept)
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), DoorError> {
        // A channel that this side closed is not reported as closed again: its process tells.
        if self.channel.as_ref().is_some_and(|(_, process)| process.as_ref().is_none_or(|process| !process.has_ended()))
        {
            self.log("refused: a second channel on one connection");
            // Dropping the reply refuses.
            return Ok(());
        }
        self.channel = Some((channel.id(), None));
        reply.accept().await;
        Ok(())
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        command: &[u8],
        session: &mut Session,
    ) -> Result<(), DoorError> {
        self.shared.log.detail(self.peer, &format!("asked for: {}", printable(command, 200)));
        self.start(channel, session)
    }

    async fn shell_request(&mut self, channel: ChannelId, session: &mut Session) -> Result<(), DoorError> {
        self.start(channel, session)
    }

    async fn data(&mut self, channel: ChannelId, data: &[u8], _session: &mut Session) -> Result<(), DoorError> {
        let (room, waiting_max) = (self.shared.windows.room(), self.window.waiting_max());
        let Some(process) = self.running(channel) else { return Ok(()) };
        process.put(data, waiting_max).map_err(|_| DoorError::Flood)?;
        if data.len() <= STALLED_BYTES && process.waiting() > room {
            // What the window allowed before is taken at once, so that what the client says behind it is heard.
            // Either some bytes moved or the time is up: the connection goes on in both cases.
            let _ = tokio::time::timeout(STALL, process.consumed()).await;
        }
        Ok(())
    }

    fn adjust_window(&mut self, channel: ChannelId, _current: u32) -> u32 {
        let waiting = self.running(channel).map_or(0, |process| process.waiting());
        self.window.next(waiting)
    }

    async fn channel_eof(&mut self, channel: ChannelId, _session: &mut Session) -> Result<(), DoorError> {
        if let Some(process) = self.running(channel) {
            process.end_input();
        }
        Ok(())
    }

    async fn channel_close(&mut self, channel: ChannelId, _session: &mut Session) -> Result<(), DoorError> {
        if self.channel.as_ref().is_some_and(|(open, _)| *open == channel) {
            self.channel = None;
            self.inside.send_replace(Inside::Idle);
        }
        Ok(())
    }

    async fn subsystem_request(
        &mut self,
        channel: ChannelId,
        name: &str,
        session: &mut Session,
    ) -> Result<(), DoorError> {
        self.refuse(&format!("subsystem {}", printable(name.as_bytes(), 40)), channel, session)
    }

    async fn pty_request(
        &mut self,
        channel: ChannelId,
        _term: &str,
        _columns: u32,
        _rows: u32,
        _width: u32,
        _height: u32,
        _modes: &[(Pty, u32)],
        session: &mut Session,
    ) -> Result<(), DoorError> {
        self.refuse("terminal", channel, session)
    }

    async fn x11_request(
        &mut self,
        channel: ChannelId,
        _single: bool,
        _protocol: &str,
        _cookie: &str,
        _screen: u32,
        session: &mut Session,
    ) -> Result<(), DoorError> {
        self.refuse("X11 forwarding", channel, session)
    }

    async fn env_request(
        &mut self,
        channel: ChannelId,
        _name: &str,
        _value: &str,
        session: &mut Session,
    ) -> Result<(), DoorError> {
        // Clients send their language unasked: no line in the log.
        Ok(session.channel_failure(channel)?)
    }

    async fn window_change_request(
        &mut self,
        channel: ChannelId,
        _columns: u32,
        _rows: u32,
        _width: u32,
        _height: u32,
        session: &mut Session,
    ) -> Result<(), DoorError> {
        Ok(session.channel_failure(channel)?)
    }
}
