package episode

import (
	"context"
	"testing"
)

// One small episode: what every step of shipping pays for each.
func BenchmarkReadFacts(b *testing.B) {
	made, err := Make(context.Background(), b.TempDir(), Spec{Run: Run{Host: "lab-1", Workload: "w", HostFacts: ThisHost()}, Files: []File{{Path: "output/x", Data: make([]byte, 64<<10)}}})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ReadFacts(made[0].Dir); err != nil {
			b.Fatal(err)
		}
	}
}
