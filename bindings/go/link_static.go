//go:build cgo && dlock_static && !dlock_pkgconfig

package dlock

// The library becomes a part of the program, which can then be copied to a machine without libdlock.so.

/*
#cgo CFLAGS: -I${SRCDIR}/../../include -I${SRCDIR}/../../target/release
#cgo linux LDFLAGS: -L${SRCDIR}/../../target/release -l:libdlock.a
#cgo !linux LDFLAGS: ${SRCDIR}/../../target/release/libdlock.a
#cgo linux LDFLAGS: -lpthread -ldl -lm
#if !__has_include(<libdlock.a>)
#error "dlock: libdlock.a is not built. Run `make build` in the root of the dlock repository."
#endif
*/
import "C"
