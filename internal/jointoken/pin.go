package jointoken

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
)

const pinPrefix = "sha256:"

// Pin says which authority a certificate is of: "sha256:" and the hash of its public key in hexadecimal digits.
type Pin string

// ParsePin reads a pin.
func ParsePin(text string) (Pin, error) {
	digits, ok := strings.CutPrefix(strings.ToLower(text), pinPrefix)
	if b, err := hex.DecodeString(digits); !ok || err != nil || len(b) != sha256.Size {
		return "", fmt.Errorf("jointoken: %q is no hash of an authority: it has the form %s and %d hexadecimal digits", text, pinPrefix, 2*sha256.Size)
	}
	return Pin(pinPrefix + digits), nil
}

// PinOf is that of a certificate.
func PinOf(c *x509.Certificate) Pin {
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return Pin(pinPrefix + hex.EncodeToString(sum[:]))
}

// Authorities are the certificates in a PEM text, of which there must be some.
func Authorities(text []byte) (out []*x509.Certificate, err error) {
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("jointoken: an authority: %w", err)
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, errors.New("jointoken: there is no authority in PEM")
	}
	return out, nil
}

// Pinned are those authorities of a PEM text that have one of the pins, in PEM. It is an error if there are none.
func Pinned(text []byte, pins ...Pin) ([]byte, error) {
	all, err := Authorities(text)
	if err != nil {
		return nil, err
	}
	var out []byte
	for _, c := range all {
		if slices.Contains(pins, PinOf(c)) {
			out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
		}
	}
	if out == nil {
		return nil, fmt.Errorf("jointoken: none of the cluster's authorities is the one that was asked for: it has %s", PinOf(all[0]))
	}
	return out, nil
}
