// Package operationreport is what the operations on clusters and node pools tell along with how they ended: warnings with
// success, and with the failure of nodes why it came about. Both are additions of Cloister's.
package operationreport

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/lib/adminapi"
)

// patience bounds how long an operation that has ended waits for what there is to tell of it. That nobody could find
// out is no failure of the operation, nor another one.
const patience = 5 * time.Second

// Source finds out what there is to tell of a cluster. Where a function is nil nobody looks.
type Source struct {
	// Warnings tells what of a cluster works and does not do what its user may believe.
	Warnings func(ctx context.Context, cluster resourceid.ID) ([]adminapi.Warning, error)
	// Diagnose tells why a cluster's nodes do not start.
	Diagnose func(ctx context.Context, cluster resourceid.ID) (*adminapi.Diagnosis, error)
}

// Of is what an operation on the cluster, or on a pool of it, tells along with its success: nil where there is nothing to tell.
func (s Source) Of(ctx context.Context, cluster resourceid.ID) any {
	if s.Warnings == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	warnings, err := s.Warnings(ctx, cluster)
	if err != nil || len(warnings) == 0 {
		return nil
	}
	return adminapi.WriteReport{Warnings: warnings}
}

// Explain is the error with why it came about, where that can be told.
func (s Source) Explain(ctx context.Context, cluster resourceid.ID, fault *armerror.Error) *armerror.Error {
	if s.Diagnose == nil {
		return fault
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	diagnosis, err := s.Diagnose(ctx, cluster)
	if err != nil || diagnosis == nil {
		return fault
	}
	info, err := json.Marshal(diagnosis)
	if err != nil {
		return fault
	}
	with := *fault
	with.AdditionalInfo = append(slices.Clone(fault.AdditionalInfo), armerror.AdditionalInfo{Type: adminapi.DiagnosisInfo, Info: info})
	return &with
}
