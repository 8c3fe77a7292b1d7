package objectstore

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/nacl/secretbox"
)

// Transformer protects values at rest. aad is authenticated with the value where the cipher can do so: the key, so that a
// value cannot be moved to another one.
type Transformer interface {
	// FromStore returns the value in the clear. Stale says that it would be stored otherwise now.
	FromStore(value, aad []byte) (clear []byte, stale bool, err error)
	// ToStore returns what is to be stored.
	ToStore(clear, aad []byte) ([]byte, error)
}

// Key is a named key of a provider.
type Key struct {
	Name   string
	Secret []byte
}

const encrypted = "k8s:enc:"

var (
	errEncrypted = errors.New("the stored value is encrypted, and no provider for it is configured")
	errNoMatch   = errors.New("no configured provider and key fits the stored value")
	errShort     = errors.New("the stored value is shorter than its cipher allows")
	errPadding   = errors.New("the stored value is not padded rightly")
	errSealed    = errors.New("the stored value does not open with the key")
)

// Identity stores values as they are.
func Identity() Transformer { return identity{} }

type identity struct{}

func (identity) FromStore(value, _ []byte) ([]byte, bool, error) {
	if bytes.HasPrefix(value, []byte(encrypted)) {
		return nil, false, errEncrypted
	}
	return value, false, nil
}

func (identity) ToStore(clear, _ []byte) ([]byte, error) { return clear, nil }

// Chain reads what any of its members wrote; the first one writes.
func Chain(members ...Transformer) Transformer {
	if len(members) == 0 {
		return Identity()
	}
	return chain(members)
}

type chain []Transformer

func (c chain) FromStore(value, aad []byte) ([]byte, bool, error) {
	var first error
	for i, t := range c {
		clear, stale, err := t.FromStore(value, aad)
		if err == nil {
			return clear, stale || i > 0, nil
		}
		if first == nil || errors.Is(first, errEncrypted) || errors.Is(first, errNoMatch) {
			first = err
		}
	}
	return nil, false, first
}

func (c chain) ToStore(clear, aad []byte) ([]byte, error) { return c[0].ToStore(clear, aad) }

// sealer is a cipher with one key.
type sealer interface {
	open(sealed, aad []byte) ([]byte, error)
	seal(clear, aad []byte) ([]byte, error)
}

// provider is a cipher with its keys, of which the first writes. Values are <prefix><key name>:<sealed>.
type provider struct {
	prefixes []string
	sealers  []sealer
}

func newProvider(name string, keys []Key, make func(secret []byte) (sealer, error)) (Transformer, error) {
	if len(keys) == 0 {
		return nil, fmt.Errorf("encryption provider %s has no keys", name)
	}
	p := &provider{}
	for _, k := range keys {
		if k.Name == "" || strings.Contains(k.Name, ":") {
			return nil, fmt.Errorf("encryption provider %s: %q is no name of a key", name, k.Name)
		}
		s, err := make(k.Secret)
		if err != nil {
			return nil, fmt.Errorf("encryption provider %s, key %q: %w", name, k.Name, err)
		}
		p.prefixes = append(p.prefixes, encrypted+name+":v1:"+k.Name+":")
		p.sealers = append(p.sealers, s)
	}
	return p, nil
}

// FromStore tries every key of the name that the value has.
func (p *provider) FromStore(value, aad []byte) ([]byte, bool, error) {
	err := errNoMatch
	for i, prefix := range p.prefixes {
		sealed, ok := bytes.CutPrefix(value, []byte(prefix))
		if !ok {
			continue
		}
		clear, openErr := p.sealers[i].open(sealed, aad)
		if openErr == nil {
			return clear, i > 0, nil
		}
		err = openErr
	}
	return nil, false, err
}

func (p *provider) ToStore(clear, aad []byte) ([]byte, error) {
	sealed, err := p.sealers[0].seal(clear, aad)
	if err != nil {
		return nil, err
	}
	return append([]byte(p.prefixes[0]), sealed...), nil
}

// AESGCM encrypts and authenticates, with keys of 16, 24 or 32 bytes. A key is good for 2^32 writes, which nobody counts.
func AESGCM(keys ...Key) (Transformer, error) {
	return newProvider("aesgcm", keys, func(secret []byte) (sealer, error) {
		block, err := aes.NewCipher(secret)
		if err != nil {
			return nil, err
		}
		aead, err := cipher.NewGCM(block)
		return gcm{aead}, err
	})
}

// gcm: nonce (12 bytes), sealed value with its tag.
type gcm struct{ aead cipher.AEAD }

func (g gcm) open(sealed, aad []byte) ([]byte, error) {
	n := g.aead.NonceSize()
	if len(sealed) < n {
		return nil, errShort
	}
	return g.aead.Open(nil, sealed[:n], sealed[n:], aad)
}

func (g gcm) seal(clear, aad []byte) ([]byte, error) {
	n := g.aead.NonceSize()
	out := make([]byte, n, n+len(clear)+g.aead.Overhead())
	if _, err := rand.Read(out); err != nil {
		return nil, err
	}
	return g.aead.Seal(out, out, clear, aad), nil
}

// AESCBC encrypts with PKCS#7 padding and without authentication, with keys of 16, 24 or 32 bytes.
func AESCBC(keys ...Key) (Transformer, error) {
	return newProvider("aescbc", keys, func(secret []byte) (sealer, error) {
		block, err := aes.NewCipher(secret)
		return cbc{block}, err
	})
}

// cbc: initialization vector (16 bytes), padded and encrypted value.
type cbc struct{ block cipher.Block }

func (c cbc) open(sealed, _ []byte) ([]byte, error) {
	const size = aes.BlockSize
	if len(sealed) < 2*size || len(sealed)%size != 0 {
		return nil, errShort
	}
	out := make([]byte, len(sealed)-size)
	cipher.NewCBCDecrypter(c.block, sealed[:size]).CryptBlocks(out, sealed[size:])
	pad := int(out[len(out)-1])
	if pad == 0 || pad > size || !bytes.Equal(out[len(out)-pad:], bytes.Repeat([]byte{byte(pad)}, pad)) {
		return nil, errPadding
	}
	return out[:len(out)-pad], nil
}

func (c cbc) seal(clear, _ []byte) ([]byte, error) {
	const size = aes.BlockSize
	pad := size - len(clear)%size
	out := make([]byte, size+len(clear)+pad)
	if _, err := rand.Read(out[:size]); err != nil {
		return nil, err
	}
	n := copy(out[size:], clear)
	copy(out[size+n:], bytes.Repeat([]byte{byte(pad)}, pad))
	cipher.NewCBCEncrypter(c.block, out[:size]).CryptBlocks(out[size:], out[size:])
	return out, nil
}

// SecretBox encrypts and authenticates the value, not the key, with XSalsa20 and Poly1305 and secrets of 32 bytes.
func SecretBox(keys ...Key) (Transformer, error) {
	return newProvider("secretbox", keys, func(secret []byte) (sealer, error) {
		if len(secret) != 32 {
			return nil, fmt.Errorf("a secret of %d bytes, not 32", len(secret))
		}
		return (*box)(secret), nil
	})
}

// box: nonce (24 bytes), sealed value.
type box [32]byte

func (b *box) open(sealed, _ []byte) ([]byte, error) {
	var nonce [24]byte
	if len(sealed) < len(nonce)+secretbox.Overhead {
		return nil, errShort
	}
	out, ok := secretbox.Open(nil, sealed[copy(nonce[:], sealed):], &nonce, (*[32]byte)(b))
	if !ok {
		return nil, errSealed
	}
	return out, nil
}

func (b *box) seal(clear, _ []byte) ([]byte, error) {
	var nonce [24]byte
	if _, err := rand.Read(nonce[:]); err != nil {
		return nil, err
	}
	return secretbox.Seal(nonce[:], clear, &nonce, (*[32]byte)(b)), nil
}
