package mvcc

// Weigh counts the keys from one on, up to another one (exclusive; nil: all), and sums up the bytes that are stored for them
// as of the current revision. It costs the logarithm of the number of keys.
func (t *ReadTxn) Weigh(from string, to *string) (keys, bytes int64) {
	return t.at.root.Weigh(from, to)
}

// KeyAt returns the key at a place in the row of all keys, each as long as the bytes that are stored for it; false behind the last
// one. It costs the logarithm of the number of keys.
func (t *ReadTxn) KeyAt(offset int64) (string, bool) {
	e := t.at.root.AtByte(offset)
	if e == nil {
		return "", false
	}
	return e.Key, true
}

// PrefixEnd is the first key behind all that begin with a prefix, nil if there is none.
func PrefixEnd(prefix string) *string {
	for i := len(prefix) - 1; i >= 0; i-- {
		if prefix[i] < 0xff {
			end := prefix[:i] + string([]byte{prefix[i] + 1})
			return &end
		}
	}
	return nil
}
