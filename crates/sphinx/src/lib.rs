//! The Sphinx packet of LIP-99 and LIP-183: build, peel, SURBs, LIONESS
