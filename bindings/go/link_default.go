//go:build cgo && !dlock_static && !dlock_pkgconfig

package dlock

// The library as `make build` leaves it in this repository. The second -I is there for __has_include.

/*
#cgo CFLAGS: -I${SRCDIR}/../../include -I${SRCDIR}/../../target/release
#cgo LDFLAGS: -L${SRCDIR}/../../target/release -ldlock -Wl,-rpath,${SRCDIR}/../../target/release
#if __has_include(<libdlock.so>) || __has_include(<libdlock.dylib>)
#else
#error "dlock: libdlock is not built. Run `make build` in the root of the dlock repository, or see 'Building' in the documentation of this package (-tags dlock_pkgconfig, -tags dlock_static)."
#endif
*/
import "C"
