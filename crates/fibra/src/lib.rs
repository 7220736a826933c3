//! One I/O driver, four ways to wait: a concurrency and I/O runtime.
#![forbid(unsafe_code)]

pub use fibra_driver as driver;
