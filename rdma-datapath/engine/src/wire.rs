//! Wire codec of the TCP data path.
