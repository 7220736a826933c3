//! Windows: the calls behind the mio backend. (Stub: being written.)
