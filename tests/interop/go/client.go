package main

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// client is a workload that knows go-spiffe and nothing of Wayleave: it gets its X509-SVID and
// bundle from a Workload API and calls a sidecar with them.
func client(endpoint, own, peer, url string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	source, err := workloadapi.NewX509Source(ctx, workloadapi.WithClientOptions(workloadapi.WithAddr(endpoint)))
	if err != nil {
		return fmt.Errorf("no X509 source: %w", err)
	}
	defer source.Close()
	svid, err := source.GetX509SVID()
	if err != nil {
		return fmt.Errorf("no SVID: %w", err)
	}
	if svid.ID.String() != own {
		return fmt.Errorf("the SVID is that of %s, not of %s", svid.ID, own)
	}
	bundle, err := source.GetX509BundleForTrustDomain(svid.ID.TrustDomain())
	if err != nil || len(bundle.X509Authorities()) == 0 {
		return fmt.Errorf("no bundle of %s: %v", svid.ID.TrustDomain(), err)
	}
	// The bundles alone come by a call of their own.
	bundles, err := workloadapi.FetchX509Bundles(ctx, workloadapi.WithAddr(endpoint))
	if err != nil || !bundles.Has(svid.ID.TrustDomain()) {
		return fmt.Errorf("no bundles without an SVID: %v", err)
	}
	return call(ctx, source, spiffeid.RequireFromString(peer), url)
}

// call makes one call that policy allows and one that it denies.
func call(ctx context.Context, source *workloadapi.X509Source, peer spiffeid.ID, url string) error {
	config := tlsconfig.MTLSClientConfig(source, source, tlsconfig.AuthorizeID(peer))
	caller := http.Client{Transport: &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}}
	for method, expected := range map[string]int{"GET": 200, "DELETE": 403} {
		request, err := http.NewRequestWithContext(ctx, method, url, nil)
		if err != nil {
			return err
		}
		response, err := caller.Do(request)
		if err != nil {
			return fmt.Errorf("%s: %w", method, err)
		}
		response.Body.Close()
		if response.StatusCode != expected {
			return fmt.Errorf("%s was answered with %s, not %d", method, response.Status, expected)
		}
		fmt.Printf("go-spiffe: %s %s\n", method, response.Status)
	}
	return nil
}
