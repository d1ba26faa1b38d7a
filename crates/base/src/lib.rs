//! What every part of mizzle names alike: time, ids, profiles, the network document
