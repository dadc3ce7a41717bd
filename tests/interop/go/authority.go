package main

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net/url"
	"os"
	"time"
)

// authority signs with an intermediate below its root, as SPIRE does with an upstream authority.
type authority struct {
	domain       string
	root         []byte
	intermediate *x509.Certificate
	key          crypto.Signer
}

// svid is an X509-SVID in DER.
type svid struct {
	id    string
	chain []byte
	key   []byte
}

// openAuthority reads the authority from a file, or makes one and writes it there.
func openAuthority(path, domain string) (*authority, error) {
	content, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		content, err = newAuthority(domain)
		if err == nil {
			err = os.WriteFile(path, content, 0o600)
		}
	}
	if err != nil {
		return nil, err
	}
	root, rest := pem.Decode(content)
	middle, rest := pem.Decode(rest)
	key, _ := pem.Decode(rest)
	intermediate, err := x509.ParseCertificate(middle.Bytes)
	if err != nil {
		return nil, err
	}
	signer, err := x509.ParsePKCS8PrivateKey(key.Bytes)
	if err != nil {
		return nil, err
	}
	return &authority{domain, root.Bytes, intermediate, signer.(crypto.Signer)}, nil
}

// newAuthority is a root, its intermediate, and the key of the latter, in PEM.
func newAuthority(domain string) ([]byte, error) {
	rootKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := caTemplate(domain, "root", 1)
	root, err := x509.CreateCertificate(rand.Reader, template, template, rootKey.Public(), rootKey)
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	parent, err := x509.ParseCertificate(root)
	if err != nil {
		return nil, err
	}
	middle, err := x509.CreateCertificate(rand.Reader, caTemplate(domain, "intermediate", 2), parent, key.Public(), rootKey)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	var content bytes.Buffer
	for _, block := range []pem.Block{{Type: "CERTIFICATE", Bytes: root}, {Type: "CERTIFICATE", Bytes: middle}, {Type: "PRIVATE KEY", Bytes: der}} {
		if err := pem.Encode(&content, &block); err != nil {
			return nil, err
		}
	}
	return content.Bytes(), nil
}

func caTemplate(domain, name string, serial int64) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber:          big.NewInt(serial),
		Subject:               pkix.Name{Organization: []string{domain}, CommonName: name},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		URIs:                  []*url.URL{{Scheme: "spiffe", Host: domain}},
	}
}

// issue signs an SVID; serial 0 takes a random one.
func (a *authority) issue(path string, serial int64, lifetime time.Duration, names ...string) (*svid, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	number := big.NewInt(serial)
	if serial == 0 {
		if number, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)); err != nil {
			return nil, err
		}
	}
	id := &url.URL{Scheme: "spiffe", Host: a.domain, Path: path}
	template := &x509.Certificate{
		SerialNumber:          number,
		Subject:               pkix.Name{Country: []string{"US"}, Organization: []string{"SPIRE"}},
		NotBefore:             time.Now().Add(-10 * time.Second),
		NotAfter:              time.Now().Add(lifetime),
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageKeyAgreement | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		URIs:                  []*url.URL{id},
		DNSNames:              names,
	}
	leaf, err := x509.CreateCertificate(rand.Reader, template, a.intermediate, key.Public(), a.key)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return &svid{id.String(), append(leaf, a.intermediate.Raw...), der}, nil
}

// revoke is a revocation list in DER with one serial number.
func (a *authority) revoke(serial int64) ([]byte, error) {
	return x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number:                    big.NewInt(time.Now().UnixNano()),
		ThisUpdate:                time.Now().Add(-time.Minute),
		NextUpdate:                time.Now().Add(time.Hour),
		RevokedCertificateEntries: []x509.RevocationListEntry{{SerialNumber: big.NewInt(serial), RevocationTime: time.Now()}},
	}, a.intermediate, a.key)
}

// write puts chain and key into one PEM file, which curl takes as both.
func (s *svid) write(path string) error {
	certificates, err := x509.ParseCertificates(s.chain)
	if err != nil {
		return err
	}
	var content bytes.Buffer
	for _, certificate := range certificates {
		if err := pem.Encode(&content, &pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw}); err != nil {
			return err
		}
	}
	if err := pem.Encode(&content, &pem.Block{Type: "PRIVATE KEY", Bytes: s.key}); err != nil {
		return err
	}
	return replace(path, content.Bytes())
}

func (a *authority) writeBundle(path string) error {
	return replace(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.root}))
}

func replace(path string, content []byte) error {
	if err := os.WriteFile(path+".new", content, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
