// Command interop holds the other side of Wayleave's interop tests, made with go-spiffe and
// grpc-go, the stack that SPIRE is built on.
//
//	interop client ENDPOINT OWN-ID PEER-ID URL   calls a sidecar
//	interop agent SOCKET FOLDER LIFETIME         serves a Workload API
//	interop upstream                             is the application behind a sidecar
package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "interop:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 5 && args[0] == "client":
		return client(args[1], args[2], args[3], args[4])
	case len(args) == 4 && args[0] == "agent":
		lifetime, err := time.ParseDuration(args[3])
		if err != nil {
			return err
		}
		return agent(args[1], args[2], lifetime)
	case len(args) == 1 && args[0] == "upstream":
		return upstream()
	}
	return fmt.Errorf("usage: interop client|agent|upstream ...")
}

// upstream answers every request, and says on its first line where it listens.
func upstream() error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(listener.Addr())
	return http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, r.Header.Get("X-Forwarded-Client-Cert"))
	}))
}
