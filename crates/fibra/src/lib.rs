//! One I/O driver, four ways to wait.
