//go:build cgo && dlock_pkgconfig

package dlock

// Header and library as installed on the system: pkg-config knows where.

/*
#cgo pkg-config: dlock
*/
import "C"
