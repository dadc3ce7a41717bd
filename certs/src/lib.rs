//! X509-SVIDs, trust bundles, where they come from, and the TLS that proves a peer.
