//! The gateway of a node: its core, the session end of its mail and perhaps an exit core, and what each of them says to the others.

use std::collections::BTreeMap;

use libp2p_mix::link;
use mizzle_base::Time;
use mizzle_exit::{ConnId, Exit};
use mizzle_gateway::store::Answer;
use mizzle_gateway::{Gateway, Upload, UploadId, Uploaded};
use mizzle_sphinx::Packet;

use super::{LAST_WORDS, Node};
use crate::host::Link;
use crate::keeper::Keeper;

/// The gateway part at work.
pub(super) struct GatewaySide {
    pub(super) core: Gateway,
    pub(super) link: Link,
    pub(super) directory: Link,
    pub(super) exit: Option<Exit>,
    pub(super) mail: Option<Exit>,
    pub(super) keeper: Keeper,
    /// Streams to mailboxes: what the one core calls them and what the other.
    pub(super) letters: BTreeMap<UploadId, ConnId>,
}

impl Node {
    pub(super) fn tell_exit(&mut self, input: mizzle_exit::Input) {
        let now = self.clock.now();
        if let Some(exit) = self.gateway.as_mut().and_then(|g| g.exit.as_mut()) {
            exit.handle(now, input);
        }
    }

    pub(super) fn tell_gateway(&mut self, answers: Vec<Answer>) {
        let now = self.clock.now();
        if let Some(parts) = &mut self.gateway {
            for answer in answers {
                parts.core.handle(now, mizzle_gateway::Input::Store(answer));
            }
        }
    }

    pub(super) fn drain_services(&mut self, packets: &mut Vec<Packet>) {
        let now = self.clock.now();
        let Some(parts) = &mut self.gateway else { return };
        if let Some(exit) = &mut parts.exit {
            while let Some(action) = exit.poll() {
                packets.extend(self.outside.perform(action));
            }
        }
        while let Some(action) = parts.mail.as_mut().and_then(Exit::poll) {
            packets.extend(parts.perform(now, action));
        }
    }

    /// True when something was to be done, so that the other cores must be asked again.
    pub(super) fn drain_gateway(&mut self, packets: &mut Vec<Packet>) -> bool {
        let now = self.clock.now();
        let Some(parts) = &mut self.gateway else {
            return false;
        };
        let mut done = false;
        while let Some(action) = parts.core.poll() {
            done = true;
            match action {
                mizzle_gateway::Action::Mix(packet) => packets.push(packet),
                mizzle_gateway::Action::Exit(packet) => {
                    if let Some(exit) = &mut parts.exit {
                        exit.handle(now, mizzle_exit::Input::Message(packet));
                    }
                }
                mizzle_gateway::Action::Post(packet) => {
                    if let Some(mail) = &mut parts.mail {
                        mail.handle(now, mizzle_exit::Input::Message(packet));
                    }
                }
                mizzle_gateway::Action::Upload(id, what) => parts.tell_sender(now, id, what),
                mizzle_gateway::Action::Store(order) => parts.keeper.ask(order),
                mizzle_gateway::Action::Welcome { client, conn, bytes } => {
                    let conn = link::Conn::from_number(conn.0);
                    if let Some(peer) = self.clients.get(&client) {
                        let control = &parts.link.control;
                        // If the connection closed meanwhile, the client comes by another.
                        if !control.write_by(peer, conn) || control.try_send_by(peer, conn, bytes).is_err() {
                            self.counters.count("drop.client_left");
                        }
                    }
                }
                mizzle_gateway::Action::Refuse { client, conn, bytes } => {
                    let conn = link::Conn::from_number(conn.0);
                    if let Some(peer) = self.clients.get(&client) {
                        // One that is refused faster than it takes answers has one on its way.
                        if parts.link.control.say_by(peer, conn, bytes).is_err() {
                            self.counters.count("drop.client_left");
                        }
                        self.refused.entry((client, conn)).or_insert(now + LAST_WORDS);
                    }
                }
                mizzle_gateway::Action::Send { client, conn, bytes } => {
                    let conn = link::Conn::from_number(conn.0);
                    let refused = match self.clients.get(&client) {
                        Some(peer) => {
                            let sent = parts.link.control.try_send_by(peer, conn, bytes);
                            sent.err().map(|(_, bytes)| bytes)
                        }
                        None => Some(bytes),
                    };
                    if let Some(bytes) = refused {
                        parts
                            .core
                            .handle(now, mizzle_gateway::Input::NotWritten { client, bytes });
                    }
                }
            }
        }
        done
    }
}

impl GatewaySide {
    /// Carries out what the session end of the mail wants: its connections are the gateway core's uploads. A packet for the
    /// mix comes back.
    fn perform(&mut self, now: Time, action: mizzle_exit::Action) -> Option<Packet> {
        use mizzle_exit::Action;
        let (conn, said) = match action {
            Action::Mix(packet) => return Some(packet),
            Action::Mailbox(conn, mailbox) => {
                self.letters.insert(UploadId(conn.number()), conn);
                (conn, Upload::Open(mailbox))
            }
            Action::Read(conn, _) => (conn, Upload::Wanted),
            Action::Write(conn, bytes) => (conn, Upload::Bytes(bytes.into())),
            Action::Finish(conn) => (conn, Upload::Ended),
            Action::Abort(conn) | Action::Forget(conn) => {
                self.letters.remove(&UploadId(conn.number()));
                (conn, Upload::Gone)
            }
            // It leads to mailboxes only.
            Action::Resolve(..) | Action::Connect(..) => return None,
        };
        let id = UploadId(conn.number());
        self.core.handle(now, mizzle_gateway::Input::Upload(id, said));
        None
    }

    fn tell_sender(&mut self, now: Time, id: UploadId, what: Uploaded) {
        use mizzle_exit::Input;
        let (Some(&conn), Some(mail)) = (self.letters.get(&id), &mut self.mail) else {
            return;
        };
        mail.handle(
            now,
            match what {
                Uploaded::Opened(result) => Input::Connected(conn, result),
                Uploaded::Took(n) => Input::Wrote(conn, n),
                Uploaded::Answer(bytes) => Input::Read(conn, bytes.into()),
            },
        );
    }
}
