//! The mix core: peel, replay check, delay, forward; own loops
