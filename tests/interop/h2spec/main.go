// h2spec, which as a program presents no client certificate, as a library: runs every case
// against a listener that asks for one, and compares what fails with a list of allowed cases.
//
//	h2spec upstream                                     serves, and prints its address
//	h2spec run PORT SVID KEY ALLOWED                    runs every case
package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/summerwind/h2spec/config"
	"github.com/summerwind/h2spec/generic"
	"github.com/summerwind/h2spec/hpack"
	"github.com/summerwind/h2spec/http2"
	"github.com/summerwind/h2spec/spec"
)

func main() {
	var err error
	switch {
	case len(os.Args) == 2 && os.Args[1] == "upstream":
		err = upstream()
	case len(os.Args) == 6 && os.Args[1] == "run":
		err = run(os.Args[2], os.Args[3], os.Args[4], os.Args[5])
	default:
		err = fmt.Errorf("usage: h2spec upstream | h2spec run PORT SVID KEY ALLOWED")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// upstream answers every request once it has read it.
func upstream() error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(listener.Addr())
	return http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return
		}
		io.WriteString(w, strings.Repeat("x", 1024))
	}))
}

func run(port, svid, key, allowedFile string) error {
	number, err := strconv.Atoi(port)
	if err != nil {
		return err
	}
	allowed, err := readAllowed(allowedFile)
	if err != nil {
		return err
	}
	settings := &config.Config{
		Host:         "127.0.0.1",
		Port:         number,
		Path:         "/",
		Timeout:      2 * time.Second,
		MaxHeaderLen: 4000,
		Strict:       true,
		TLS:          true,
		Insecure:     true,
		CertFile:     svid,
		CertKeyFile:  key,
	}
	var results tally
	for _, group := range []*spec.TestGroup{generic.Spec(), http2.Spec(), hpack.Spec()} {
		group.Test(settings)
		results.add(group)
	}
	return results.judge(allowed)
}

// readAllowed reads lines of a case's name and the reason why it may fail.
func readAllowed(path string) (map[string]string, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	allowed := map[string]string{}
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, reason, found := strings.Cut(line, " ")
		if !found {
			return nil, fmt.Errorf("%s: `%s` is allowed without a reason", path, name)
		}
		allowed[name] = strings.TrimSpace(reason)
	}
	return allowed, lines.Err()
}

// tally is the outcome of every case by its name, such as `http2/5.1/13`.
type tally struct {
	passed          int
	failed, skipped []string
}

func (t *tally) add(group *spec.TestGroup) {
	for _, test := range append(group.Tests, group.StrictTests...) {
		result := test.Result
		if result == nil {
			continue
		}
		name := fmt.Sprintf("%s/%d", group.ID(), result.Sequence)
		switch {
		case result.Failed:
			t.failed = append(t.failed, name)
		case result.Skipped:
			t.skipped = append(t.skipped, name)
		default:
			t.passed++
		}
	}
	for _, child := range group.Groups {
		t.add(child)
	}
}

// judge fails for a case that fails or is skipped and is not allowed to, for one that is allowed
// and passes, and where hardly anything ran.
func (t *tally) judge(allowed map[string]string) error {
	fmt.Printf("h2spec: %d passed, %d failed, %d skipped\n", t.passed, len(t.failed), len(t.skipped))
	var wrong []string
	for _, name := range append(append([]string{}, t.failed...), t.skipped...) {
		if reason, ok := allowed[name]; ok {
			fmt.Printf("h2spec: allowed: %s: %s\n", name, reason)
			delete(allowed, name)
		} else {
			wrong = append(wrong, name+" does not pass")
		}
	}
	for name := range allowed {
		wrong = append(wrong, name+" passes, but is listed as one that does not")
	}
	if t.passed < 100 {
		wrong = append(wrong, "fewer than 100 cases passed")
	}
	if len(wrong) > 0 {
		return fmt.Errorf("h2spec: %s", strings.Join(wrong, "; "))
	}
	return nil
}
