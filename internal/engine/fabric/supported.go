package fabric

import (
	"fmt"

	"github.com/google/nftables"
)

// Supported reports, as nil, that the kernel has what the fabric filters and translates with.
func Supported() error {
	conn, err := nftables.New()
	if err == nil {
		_, err = conn.ListTables()
	}
	if err != nil {
		return fmt.Errorf("the kernel's nftables do not answer: %w", err)
	}
	return nil
}
