//! The capture filter.
