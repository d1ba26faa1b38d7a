//! The thread that waits for the disk of a gateway's store of letters.
//!
//! What the gateway core asked while the disk was at work is done at once when it is ready: one wait for many items. How much
//! there can be is bounded by the core, which asks a few things at a time for each client and each upload.

use mizzle_gateway::store::{Answer, MailStore, Order};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Orders carried out in one go, 4 MB of items at most: under load one wait for the disk is for many.
const AT_ONCE: usize = 1_024;

/// The asker's end of it. The thread ends when this is dropped.
pub struct Keeper {
    orders: mpsc::UnboundedSender<Order>,
    answers: mpsc::UnboundedReceiver<Vec<Answer>>,
    thread: JoinHandle<()>,
}

impl Keeper {
    /// Starts the thread. Must be called within a tokio runtime.
    #[must_use]
    pub fn start(store: Box<dyn MailStore>) -> Self {
        let (orders, asked) = mpsc::unbounded_channel();
        let (told, answers) = mpsc::unbounded_channel();
        Self {
            orders,
            answers,
            thread: tokio::task::spawn_blocking(move || keep(store, asked, &told)),
        }
    }

    /// Has the store do this, after what it was asked before. It never waits.
    pub fn ask(&self, order: Order) {
        // It fails only when the thread has ended, in a panic that was reported already.
        let _ = self.orders.send(order);
    }

    /// The next answers; `None` for ever when the thread has ended.
    pub async fn answers(&mut self) -> Option<Vec<Answer>> {
        self.answers.recv().await
    }

    /// Ends the thread, once all that was asked is done, so that the directory can be opened again.
    pub async fn stop(self) {
        drop(self.orders);
        let _ = self.thread.await;
    }
}

fn keep(
    mut store: Box<dyn MailStore>,
    mut asked: mpsc::UnboundedReceiver<Order>,
    told: &mpsc::UnboundedSender<Vec<Answer>>,
) {
    let mut trouble = None;
    while let Some(first) = asked.blocking_recv() {
        let mut orders = vec![first];
        while orders.len() < AT_ONCE
            && let Ok(more) = asked.try_recv()
        {
            orders.push(more);
        }
        let (answers, result) = store.perform(orders);
        match (&trouble, result) {
            (None, Err(why)) => {
                tracing::error!("{why}");
                trouble = Some(why);
            }
            (Some(before), Err(why)) if *before != why => {
                tracing::error!("{why}");
                trouble = Some(why);
            }
            (Some(_), Ok(())) => {
                tracing::info!("the mail store is in order again");
                trouble = None;
            }
            (None, Ok(())) | (Some(_), Err(_)) => {}
        }
        // The node may be gone already; what it asked is done all the same.
        let _ = told.send(answers);
    }
}
