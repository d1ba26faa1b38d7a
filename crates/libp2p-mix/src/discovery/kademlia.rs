//! Nodes that are found in a Kademlia table: each puts its record under its own peer id, and random walks find the others.
//!
//! For nodes. A client that looks for nodes in a table tells the table when it comes; it had better get a list.

use libp2p::{PeerId, kad};

use crate::{Control, discovery::NodeRecord};

/// Publishes our record and looks for others' in the application's own Kademlia behaviour.
///
/// Call [`publish`](Self::publish) once the address is known and again before the table's records expire,
/// [`walk`](Self::walk) when the pool should grow, and give every event to [`on_event`](Self::on_event).
#[derive(Clone, Debug)]
pub struct Kademlia {
    control: Control,
}

/// Records that one step of a walk asks for.
const PER_STEP: usize = 20;

impl Kademlia {
    /// For this peer.
    #[must_use]
    pub fn new(control: Control) -> Self {
        Self { control }
    }

    /// Puts our record into the table; false if our address isn't known yet, or our own store is full.
    pub fn publish<S: kad::store::RecordStore + Send + 'static>(
        &self,
        table: &mut kad::Behaviour<S>,
    ) -> bool {
        let Some(value) = self.control.record() else {
            return false;
        };
        let record = kad::Record::new(self.control.peer_id().to_bytes(), value);
        table.put_record(record, kad::Quorum::One).is_ok()
    }

    /// Looks around a random place.
    pub fn walk<S: kad::store::RecordStore + Send + 'static>(&self, table: &mut kad::Behaviour<S>) {
        table.get_closest_peers(PeerId::random());
    }

    /// Takes what walks found.
    pub fn on_event<S: kad::store::RecordStore + Send + 'static>(
        &self,
        table: &mut kad::Behaviour<S>,
        event: &kad::Event,
    ) {
        let kad::Event::OutboundQueryProgressed { result, .. } = event else {
            return;
        };
        match result {
            kad::QueryResult::GetClosestPeers(Ok(found)) => {
                for peer in found
                    .peers
                    .iter()
                    .take(PER_STEP)
                    .filter(|p| p.peer_id != self.control.peer_id())
                {
                    table.get_record(kad::RecordKey::new(&peer.peer_id.to_bytes()));
                }
            }
            kad::QueryResult::GetRecord(Ok(kad::GetRecordOk::FoundRecord(found))) => {
                let record = &found.record;
                // Under another's id a record is a lie, whoever signed it.
                match NodeRecord::read(&record.value) {
                    Ok(read) if read.node.endpoint.peer.to_bytes() == record.key.to_vec() => {
                        let _ = self.control.offer_record(&record.value);
                    }
                    _ => self.control.shared.count("discovery.bad_record"),
                }
            }
            _ => {}
        }
    }
}
