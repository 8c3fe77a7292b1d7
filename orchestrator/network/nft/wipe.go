package nft

import (
	"fmt"
	"strings"

	"github.com/google/nftables"
)

// RemoveAll deletes the tables of the family inet whose names have a prefix. netns is that of NewWriter.
func RemoveAll(prefix string, netns int) error {
	conn, err := NewWriter("", netns).conn()
	if err != nil {
		return fmt.Errorf("nft: %w", err)
	}
	all, err := conn.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return fmt.Errorf("nft: tables: %w", err)
	}
	for _, t := range all {
		if strings.HasPrefix(t.Name, prefix) {
			conn.DelTable(t)
		}
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("nft: delete the tables %s*: %w", prefix, err)
	}
	return nil
}
