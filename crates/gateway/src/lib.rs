//! The gateway core: client link, mailboxes, downlink
