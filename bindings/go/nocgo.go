//go:build !cgo

package dlock

// The package stands on a C library. Without cgo the compiler stops at this name, which says why.
var _ = dlock_needs_cgo_set_CGO_ENABLED_to_1_and_install_a_C_compiler
