"""Emission of LLVM IR for the register tiles: vector instructions and loops."""

from llvmlite import ir
from numba.core import cgutils

__all__ = ["I32", "I64", "Emitter", "const", "loop", "loop_some"]

I32, I64 = ir.IntType(32), ir.IntType(64)


def const(value):
    """A 64-bit integer."""
    return ir.Constant(I64, value)


class Emitter:
    """Emits vector code of one floating-point type and one vector length into a module."""

    def __init__(self, module, size, lanes):
        self.module, self.size, self.lanes = module, size, lanes
        self.number = ir.FloatType() if size == 4 else ir.DoubleType()
        self.vector = ir.VectorType(self.number, lanes)
        self.suffix = f"v{lanes}f{8 * size}"
        self.zero = ir.Constant(self.vector, [0.0] * lanes)

    def call(self, b, name, result, arguments):
        """Call an LLVM intrinsic."""
        function_type = ir.FunctionType(result, [a.type for a in arguments])
        return b.call(cgutils.get_or_insert_function(self.module, function_type, name), arguments)

    def fma(self, b, x, y, z):
        """X * y + z."""
        # fmuladd, not fma: on a CPU without FMA it becomes a product and a sum, not a library call.
        return self.call(b, f"llvm.fmuladd.{self.suffix}", self.vector, [x, y, z])

    def from_bits(self, b, bits):
        """The float64 number of these bits, converted to the type."""
        number = b.bitcast(bits, ir.DoubleType())
        return number if self.size == 8 else b.fptrunc(number, self.number)

    def splat(self, b, scalar, kind=None):
        """A vector that repeats a scalar."""
        kind = kind or self.vector
        undefined = ir.Constant(kind, ir.Undefined)
        first = b.insert_element(undefined, scalar, ir.Constant(I32, 0))
        return b.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(I32, kind.count), [0] * kind.count))

    def first_lanes(self, b, count):
        """The mask of the first `count` lanes."""
        kind = ir.VectorType(I32, self.lanes)
        return b.icmp_signed("<", ir.Constant(kind, list(range(self.lanes))), self.splat(b, b.trunc(count, I32), kind))

    def opaque(self, b, value):
        """The value, with its origin hidden from the optimizer.

        If LLVM sees that row addresses are multiples of one stride, it computes them by a chain of dependent
        additions, which takes more cycles than the products.
        """
        return b.asm(ir.FunctionType(I64, [I64]), "", "=r,0", [value], False)

    def scalar(self, b, address):
        """The scalar at an address."""
        return b.load(b.inttoptr(address, self.number.as_pointer()), align=self.size)

    def load(self, b, address, mask=None):
        """The vector at an address; 0 in masked-off lanes."""
        pointer = b.inttoptr(address, self.vector.as_pointer())
        if mask is None:
            return b.load(pointer, align=self.size)
        arguments = [pointer, ir.Constant(I32, self.size), mask, self.zero]
        return self.call(b, f"llvm.masked.load.{self.suffix}.p0", self.vector, arguments)

    def store(self, b, value, address, mask=None):
        """Store a vector, or the lanes that the mask selects."""
        pointer = b.inttoptr(address, self.vector.as_pointer())
        if mask is None:
            b.store(value, pointer, align=self.size)
        else:
            arguments = [value, pointer, ir.Constant(I32, self.size), mask]
            self.call(b, f"llvm.masked.store.{self.suffix}.p0", ir.VoidType(), arguments)

    def prefetch(self, b, address, level):
        """Prefetch the cache line of an address, with locality `level` of `llvm.prefetch` (3: keep in L1)."""
        arguments = [b.inttoptr(address, ir.IntType(8).as_pointer()), *(ir.Constant(I32, n) for n in (0, level, 1))]
        self.call(b, "llvm.prefetch.p0", ir.VoidType(), arguments)

    def function(self, name, arguments, body):
        """The module's function of this name; `body(builder, *arguments)` emits it the first time."""
        name = f"lcnumba.{name}.{self.suffix}"
        if name in self.module.globals:
            return self.module.globals[name]
        function = ir.Function(self.module, ir.FunctionType(ir.VoidType(), arguments), name)
        # Kernels that are linked together share one copy of the function.
        function.linkage = "linkonce_odr"
        function.attributes.add("noinline")
        b = ir.IRBuilder(function.append_basic_block("entry"))
        body(b, *function.args)
        b.ret_void()
        return function


def carry(b, before, carried):
    """Phi nodes, entered from the block `before`, for a loop counter starting at 0 and the carried values."""
    phis = [b.phi(value.type) for value in [const(0), *carried]]
    for phi, value in zip(phis, [const(0), *carried], strict=True):
        phi.add_incoming(value, before)
    return phis[0], phis[1:]


def loop(b, count, carried, body):
    """For i in range(count): carried = body(i, carried); returns the final values."""
    before, head, block, after = b.block, *(b.append_basic_block(n) for n in ("head", "body", "after"))
    b.branch(head)
    b.position_at_end(head)
    i, phis = carry(b, before, carried)
    b.cbranch(b.icmp_signed("<", i, count), block, after)
    b.position_at_end(block)
    new = body(i, phis)
    i.add_incoming(b.add(i, const(1)), b.block)
    for phi, value in zip(phis, new, strict=True):
        phi.add_incoming(value, b.block)
    b.branch(head)
    b.position_at_end(after)
    return phis


def loop_some(b, count, carried, body):
    """`loop` for a count of at least 1: it omits the initial test, which would spill registers."""
    before, block, after = b.block, *(b.append_basic_block(n) for n in ("body", "after"))
    b.branch(block)
    b.position_at_end(block)
    i, phis = carry(b, before, carried)
    new = body(i, phis)
    next_i = b.add(i, const(1))
    i.add_incoming(next_i, b.block)
    for phi, value in zip(phis, new, strict=True):
        phi.add_incoming(value, b.block)
    b.cbranch(b.icmp_signed("<", next_i, count), block, after)
    b.position_at_end(after)
    return new
