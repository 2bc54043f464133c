//! The shared mount of this node: mounting, watching, checking, and the cluster lock's helper.
