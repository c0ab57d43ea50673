//! Runs the engine.
