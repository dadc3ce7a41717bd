package main

import (
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// workloads serves the Workload API as an agent does: the full state to every caller, at once
// and after each change.
type workloads struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	mutex   sync.Mutex
	state   *workload.X509SVIDResponse // none while the entry is deleted
	changed chan struct{}
}

func (w *workloads) current() (*workload.X509SVIDResponse, chan struct{}) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	return w.state, w.changed
}

func (w *workloads) set(state *workload.X509SVIDResponse) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	w.state = state
	close(w.changed)
	w.changed = make(chan struct{})
}

// FetchX509SVID refuses callers without the security header, as the specification has it.
func (w *workloads) FetchX509SVID(_ *workload.X509SVIDRequest, stream workload.SpiffeWorkloadAPI_FetchX509SVIDServer) error {
	header, _ := metadata.FromIncomingContext(stream.Context())
	if values := header.Get("workload.spiffe.io"); len(values) != 1 || values[0] != "true" {
		return status.Error(codes.InvalidArgument, "security header missing from request")
	}
	for {
		state, changed := w.current()
		if state == nil {
			return status.Error(codes.PermissionDenied, "no identity issued")
		}
		if err := stream.Send(state); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

// agent serves the SVID of a sidecar in shop.example on a socket, issued anew at half its life.
// The authorities are kept in the folder, and with each rotation the SVIDs of callers written:
// caller (shop.example), revoked (shop.example, on the revocation list after SIGHUP) and
// partner (partner.example, whose bundle is federated). SIGUSR1 deletes the entry, SIGUSR2
// creates it again.
func agent(socket, folder string, lifetime time.Duration) error {
	domains := map[string]*authority{}
	for _, name := range []string{"shop.example", "partner.example"} {
		ca, err := openAuthority(filepath.Join(folder, name+".ca.pem"), name)
		if err != nil {
			return err
		}
		domains[name] = ca
	}
	served := &workloads{changed: make(chan struct{})}
	if err := os.RemoveAll(socket); err != nil {
		return err
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	workload.RegisterSpiffeWorkloadAPIServer(server, served)
	go rotate(served, domains, folder, lifetime)
	return server.Serve(listener)
}

func rotate(served *workloads, domains map[string]*authority, folder string, lifetime time.Duration) {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2)
	tick := time.NewTicker(lifetime / 2)
	deleted, revoking := false, false
	for {
		state, err := issue(domains, folder, lifetime, revoking)
		if err != nil {
			fmt.Fprintln(os.Stderr, "interop: agent:", err)
			os.Exit(1)
		}
		if deleted {
			state = nil
		}
		served.set(state)
		select {
		case <-tick.C:
		case got := <-signals:
			revoking = revoking || got == syscall.SIGHUP
			deleted = (deleted || got == syscall.SIGUSR1) && got != syscall.SIGUSR2
		}
	}
}

// revokedSerial is that of the SVID that SIGHUP puts on the revocation list.
const revokedSerial = 0xbad

func issue(domains map[string]*authority, folder string, lifetime time.Duration, revoking bool) (*workload.X509SVIDResponse, error) {
	shop, partner := domains["shop.example"], domains["partner.example"]
	own, err := shop.issue("/sidecar", 0, lifetime, "localhost")
	if err != nil {
		return nil, err
	}
	callers := []struct {
		name   string
		ca     *authority
		serial int64
	}{{"caller", shop, 0}, {"revoked", shop, revokedSerial}, {"partner", partner, 0}}
	for _, caller := range callers {
		svid, err := caller.ca.issue("/"+caller.name, caller.serial, lifetime)
		if err != nil {
			return nil, err
		}
		if err := svid.write(filepath.Join(folder, caller.name+".pem")); err != nil {
			return nil, err
		}
	}
	response := &workload.X509SVIDResponse{
		Svids: []*workload.X509SVID{{
			SpiffeId:    own.id,
			X509Svid:    own.chain,
			X509SvidKey: own.key,
			Bundle:      shop.root,
		}},
		FederatedBundles: map[string][]byte{"spiffe://partner.example": partner.root},
	}
	if revoking {
		list, err := shop.revoke(revokedSerial)
		if err != nil {
			return nil, err
		}
		response.Crl = [][]byte{list}
	}
	return response, shop.writeBundle(filepath.Join(folder, "bundle.pem"))
}
