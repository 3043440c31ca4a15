// Pair style "mlip" of LAMMPS: a compiled potential (`mlip export --format lammps`), without Python.
//
//   plugin load pair_mlip.so
//   pair_style mlip
//   pair_coeff * * potential.pt2 Si O        (one element for each atom type)
//
// units metal, newton on; any number of MPI processes. The program in the package maps
// (species [N], centers [E], neighbors [E], vectors [E, 3] = r_neighbor - r_center) to
// (energies [N], d(sum of energies)/d(vectors) [E, 3]).

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <cstring>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "atom.h"
#include "error.h"
#include "force.h"
#include "memory.h"
#include "neigh_list.h"
#include "neighbor.h"
#include "pair.h"
#include "update.h"

namespace LAMMPS_NS {

class PairMLIP : public Pair {
 public:
  PairMLIP(LAMMPS *lmp) : Pair(lmp)
  {
    single_enable = 0;
    restartinfo = 0;
    one_coeff = 1;
    manybody_flag = 1;
    centroidstressflag = CENTROID_AVAIL;
  }

  ~PairMLIP() override
  {
    if (allocated) {
      memory->destroy(setflag);
      memory->destroy(cutsq);
    }
  }

  void settings(int narg, char **) override
  {
    if (narg) error->all(FLERR, "pair_style mlip takes no arguments");
  }

  void coeff(int narg, char **arg) override
  {
    const int n = atom->ntypes;
    if (narg != 3 + n || strcmp(arg[0], "*") || strcmp(arg[1], "*"))
      error->all(FLERR, "pair_coeff of mlip is: * * FILE.pt2 and one element for each atom type");
    try {
      program = std::make_unique<torch::inductor::AOTIModelPackageLoader>(arg[2], "model", true);
    } catch (const std::exception &problem) {
      error->all(FLERR, std::string(arg[2]) + " cannot be loaded: " + problem.what());
    }
    auto metadata = program->get_metadata();
    if (!metadata.count("species") || metadata["AOTI_DEVICE_KEY"] != "cpu" || metadata["dtype"] != "float64")
      error->all(FLERR, std::string(arg[2]) + " is not a float64 CPU potential written by mlip export");
    cutoff = std::stod(metadata["cutoff"]);
    std::istringstream words(metadata["species"]);
    names.clear();
    for (std::string word; words >> word;) names.push_back(word);
    types.assign(n + 1, -1);
    for (int t = 1; t <= n; t++) {
      for (size_t k = 0; k < names.size(); k++)
        if (names[k] == arg[2 + t]) types[t] = k;
      if (types[t] < 0)
        error->all(FLERR, "element " + std::string(arg[2 + t]) + " is unknown; the potential knows " + metadata["species"]);
    }
    if (!allocated) {
      memory->create(setflag, n + 1, n + 1, "pair:setflag");
      memory->create(cutsq, n + 1, n + 1, "pair:cutsq");
      allocated = 1;
    }
    for (int i = 1; i <= n; i++)
      for (int j = 1; j <= n; j++) setflag[i][j] = 1;
  }

  void init_style() override
  {
    if (strcmp(update->unit_style, "metal")) error->all(FLERR, "pair_style mlip needs units metal");
    if (!force->newton_pair) error->all(FLERR, "pair_style mlip needs newton on");
    neighbor->add_request(this, NeighConst::REQ_FULL);
  }

  double init_one(int, int) override { return cutoff; }

  void compute(int eflag, int vflag) override
  {
    ev_init(eflag, vflag);
    const int n_atoms = list->inum;
    double **x = atom->x, **f = atom->f;
    // A neighbour matters to the program by its element alone: one lone atom of each element is
    // added behind the local ones and stands for all neighbours, ghosts included.
    std::vector<int64_t> species(n_atoms), centers, neighbors;
    std::vector<double> vectors;
    std::vector<int> partners;
    for (int row = 0; row < n_atoms; row++) {
      const int i = list->ilist[row];
      species[row] = types[atom->type[i]];
      for (int k = 0; k < list->numneigh[i]; k++) {
        const int j = list->firstneigh[i][k] & NEIGHMASK;
        const double dx = x[j][0] - x[i][0], dy = x[j][1] - x[i][1], dz = x[j][2] - x[i][2];
        if (dx * dx + dy * dy + dz * dz >= cutoff * cutoff) continue;
        centers.push_back(row);
        neighbors.push_back(n_atoms + types[atom->type[j]]);
        vectors.insert(vectors.end(), {dx, dy, dz});
        partners.push_back(j);
      }
    }
    for (size_t k = 0; k < names.size(); k++) species.push_back(k);

    c10::InferenceMode guard;
    const int64_t n_pairs = partners.size();
    std::vector<at::Tensor> inputs = {
        at::from_blob(species.data(), {(int64_t) species.size()}, at::kLong),
        at::from_blob(centers.data(), {n_pairs}, at::kLong),
        at::from_blob(neighbors.data(), {n_pairs}, at::kLong),
        at::from_blob(vectors.data(), {n_pairs, 3}, at::kDouble),
    };
    auto outputs = program->run(inputs);
    const at::Tensor energies = outputs[0].contiguous(), gradients = outputs[1].contiguous();
    const double *e = energies.const_data_ptr<double>(), *g = gradients.const_data_ptr<double>();

    for (int64_t k = 0; k < n_pairs; k++) {
      const int i = list->ilist[centers[k]], j = partners[k];
      for (int d = 0; d < 3; d++) {
        f[i][d] += g[3 * k + d];
        f[j][d] -= g[3 * k + d];
      }
      if (vflag_atom || cvflag_atom) tally_virial(i, j, &vectors[3 * k], g + 3 * k);
    }
    for (int row = 0; row < n_atoms; row++) {
      if (eflag_global) eng_vdwl += e[row];
      if (eflag_atom) eatom[list->ilist[row]] += e[row];
    }
    if (vflag_fdotr) virial_fdotr_compute();
  }

 private:
  // The virial -r g of one pair, r from i to j and g the derivative of the energy of atom i. Halves for stress/atom;
  // all to the neighbour for centroid/stress/atom, as the heat flux of many-body potentials wants it (Z. Fan et al.,
  // Phys. Rev. B 92, 094301 (2015), eq. 21).
  void tally_virial(int i, int j, const double *r, const double *g)
  {
    static const int row[9] = {0, 1, 2, 0, 0, 1, 1, 2, 2}, column[9] = {0, 1, 2, 1, 2, 2, 0, 0, 1};
    for (int c = 0; c < 9; c++) {
      const int a = row[c], b = column[c];
      if (cvflag_atom) cvatom[j][c] -= r[a] * g[b];
      if (vflag_atom && c < 6) {
        const double half = -0.25 * (r[a] * g[b] + r[b] * g[a]);
        vatom[i][c] += half;
        vatom[j][c] += half;
      }
    }
  }

  std::unique_ptr<torch::inductor::AOTIModelPackageLoader> program;
  std::vector<std::string> names;
  std::vector<int> types;
  double cutoff = 0.0;
};

}    // namespace LAMMPS_NS

// What LAMMPS' PLUGIN package calls after loading; the layout is that of its lammpsplugin.h.
extern "C" {
struct lammpsplugin_t {
  const char *version, *style, *name, *info, *author;
  void *(*create)(void *);
  void *handle;
};

static void *create_pair(void *lmp) { return new LAMMPS_NS::PairMLIP((LAMMPS_NS::LAMMPS *) lmp); }

void lammpsplugin_init(void *lmp, void *handle, void *registrar)
{
  lammpsplugin_t plugin = {MLIP_LAMMPS_VERSION, "pair", "mlip", "machine-learned potential", "Ouroboros",
                           create_pair, handle};
  ((void (*)(lammpsplugin_t *, void *)) registrar)(&plugin, lmp);
}
}
