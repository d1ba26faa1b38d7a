//! Mix packets over libp2p connections
