//! What happens next (see below).
