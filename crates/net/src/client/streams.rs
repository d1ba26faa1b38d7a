//! The streams of a running client: between what its core knows of them and the programs that hold their other ends.

use std::io;
use std::sync::Arc;

use mizzle_base::Time;
use mizzle_client::{StreamEvent, StreamKey};
use mizzle_stream::OpenError;
use tokio::sync::oneshot;

use super::{OpenCommand, Task, Wanted};
use crate::stream::{Far, Left, MixStream, pair};

pub(super) enum Stream {
    Opening(oneshot::Sender<Result<MixStream, OpenError>>),
    Open { far: Far, finished: bool },
}

/// What there is to tell of a stream.
pub(super) struct Course {
    pub(super) since: Time,
    pub(super) sent: u64,
    pub(super) received: u64,
}

impl Task {
    pub(super) fn break_streams(&mut self) {
        for (_, stream) in std::mem::take(&mut self.streams) {
            match stream {
                Stream::Open { far, .. } => far.failed(io::ErrorKind::ConnectionAborted),
                Stream::Opening(answer) => drop(answer.send(Err(OpenError::Closed))),
            }
        }
    }

    pub(super) fn open(&mut self, command: OpenCommand) {
        let now = self.clock.now();
        let opened = match command.wanted {
            Wanted::Stream(request) => self.core.open(now, request),
            Wanted::Mailbox(gateway, mailbox) => self.core.open_mailbox(now, &gateway, mailbox),
        };
        match opened {
            Ok(key) => {
                self.streams.insert(key, Stream::Opening(command.answer));
                let course = Course {
                    since: now,
                    sent: 0,
                    received: 0,
                };
                self.courses.insert(key, course);
            }
            Err(why) => drop(command.answer.send(Err(why))),
        }
    }

    pub(super) fn stream_event(&mut self, key: StreamKey, event: StreamEvent) {
        match event {
            StreamEvent::Opened => {
                let Some(Stream::Opening(answer)) = self.streams.remove(&key) else {
                    return;
                };
                let (stream, far) = pair(key, Arc::clone(&self.changed));
                self.streams.insert(key, Stream::Open { far, finished: false });
                // If the program left meanwhile, dropping its end marks the stream, and it is reset at the next turn.
                drop(answer.send(Ok(stream)));
            }
            StreamEvent::Failed(why) => match self.streams.remove(&key) {
                Some(Stream::Opening(answer)) => drop(answer.send(Err(why))),
                Some(Stream::Open { far, .. }) => far.failed(io::ErrorKind::ConnectionReset),
                None => {}
            },
            StreamEvent::Readable | StreamEvent::Writable => self.pump(key),
            StreamEvent::Ended => {
                self.pump(key);
                if let Some(Stream::Open { far, .. }) = self.streams.get(&key) {
                    far.ended();
                }
            }
        }
    }

    /// Moves bytes between a program and the core as far as both take them.
    pub(super) fn pump(&mut self, key: StreamKey) {
        let Some(Stream::Open { far, finished }) = self.streams.get_mut(&key) else {
            return;
        };
        let core = std::cell::RefCell::new(&mut self.core);
        let (mut sent, mut received) = (0, 0);
        let wishes = far.pump(
            |bytes| {
                let n = core.borrow_mut().write(key, bytes);
                sent += n as u64;
                n
            },
            |max| {
                let bytes = core.borrow_mut().read(key, max);
                received += bytes.as_ref().map_or(0, |bytes| bytes.len() as u64);
                bytes
            },
        );
        if let Some(course) = self.courses.get_mut(&key) {
            course.sent += sent;
            course.received += received;
        }
        if wishes.finish && !*finished {
            *finished = true;
            self.core.finish(key);
        }
        match wishes.left {
            Left::Not => {}
            Left::InOrder => drop(self.streams.remove(&key)),
            Left::Early => self.reset(key),
        }
    }

    pub(super) fn reset(&mut self, key: StreamKey) {
        self.streams.remove(&key);
        self.core.reset(key);
    }

    /// Resets what programs no longer wait to be opened: the exit need not hold a connection for nobody.
    pub(super) fn forget_given_up(&mut self) {
        let given_up = |stream: &Stream| matches!(stream, Stream::Opening(answer) if answer.is_closed());
        let keys: Vec<StreamKey> = self
            .streams
            .iter()
            .filter(|(_, stream)| given_up(stream))
            .map(|(&key, _)| key)
            .collect();
        for key in keys {
            self.reset(key);
        }
        self.act();
    }
}
