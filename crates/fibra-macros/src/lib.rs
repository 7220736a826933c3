//! The attributes of fibra.
