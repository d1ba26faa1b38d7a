//! Nodes that are met: whoever says over identify that it speaks `/mix/1.0.0` is asked for its record.

use libp2p::identify;

use crate::{Control, config::PROTOCOL, discovery::NodeRecord};

/// Give every event of identify to this. A peer that speaks the protocol enters the pool: with the signed record that came along,
/// if that names its mix key, or else with the one that it is then asked for.
pub fn on_event(control: &Control, event: &identify::Event) {
    let identify::Event::Received { peer_id, info, .. } = event else {
        return;
    };
    if !info.protocols.contains(&PROTOCOL) {
        return;
    }
    let came_along = info
        .signed_peer_record
        .clone()
        .map(|envelope| envelope.into_protobuf_encoding());
    match came_along {
        Some(record) if NodeRecord::read(&record).is_ok_and(|r| r.node.endpoint.peer == *peer_id) => {
            let _ = control.offer_record(&record);
        }
        _ => control.ask_for_record(*peer_id),
    }
}
