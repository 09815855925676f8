package app

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/cloister-dev/cloister/internal/app/diagnosis"
	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/lib/adminapi"
)

// diagnosisTimeout bounds a diagnosis as a whole.
const diagnosisTimeout = 30 * time.Second

func (s *Service) newDiagnoser() *diagnosis.Diagnoser {
	return &diagnosis.Diagnoser{
		Machine: newProbe(s),
		Documents: func(ctx context.Context) ([]resourcestore.Resource, error) {
			return s.store.List(ctx, resourcestore.Filter{})
		},
		Snapshot: func(ctx context.Context) (diagnosis.Snapshot, error) {
			documents, state, err := s.world.project(ctx)
			if err != nil {
				return diagnosis.Snapshot{}, err
			}
			faults, err := diagnosis.Faults(ctx, s.store, documents)
			return diagnosis.Snapshot{Documents: documents, State: state, Faults: faults}, err
		},
	}
}

// adminWhy diagnoses what is named, or everything that is not healthy.
func (s *Service) adminWhy(_ http.ResponseWriter, r *http.Request) (any, error) {
	select {
	case <-s.ready:
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	ctx, cancel := context.WithTimeout(r.Context(), diagnosisTimeout)
	defer cancel()
	name := r.URL.Query().Get("resource")
	var out []adminapi.Diagnosis
	var err error
	if name == "" {
		out, err = s.diagnoser.Everything(ctx)
	} else {
		out, err = s.diagnoser.Find(ctx, name)
	}
	if errors.Is(err, diagnosis.ErrNotFound) {
		return nil, armerror.New(armerror.ResourceNotFound, "%v", err)
	}
	return out, err
}
