module dlock-agent

go 1.24

require github.com/araminian/dlock v0.0.0

require github.com/google/uuid v1.6.0 // indirect

replace github.com/araminian/dlock => ../../../bindings/go
