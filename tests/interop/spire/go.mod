// Pins the SPIRE that spire.sh builds: the module and, in go.sum, its hash. SPIRE's own go.mod
// and go.sum pin the rest.
module example.invalid/wayleave/tests/interop/spire

go 1.25.3

require github.com/spiffe/spire v1.13.3
