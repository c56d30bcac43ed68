// Serial transmitter: 8 data bits, no parity, one stop bit. `busy` stays high from `start` to the end of the stop bit.
module uart_tx #(
    parameter CLOCK_HZ = 50_000_000,
    parameter BAUD     = 115_200
) (
    input  wire       clk,
    input  wire       rst_n,
    input  wire       start,
    input  wire [7:0] data,
    output reg        tx,
    output wire       busy
);
    localparam DIVIDER = CLOCK_HZ / BAUD;
    localparam WIDTH   = $clog2(DIVIDER);

    reg [WIDTH-1:0] ticks;
    reg [9:0]       shift;   // {stop, data[7:0], start}, sent from the right
    reg [3:0]       left;

    assign busy = (left != 0);

    always @(posedge clk or negedge rst_n) begin
        if (!rst_n) begin
            tx    <= 1'b1;   // the idle line is high
            ticks <= 0;
            shift <= 10'h3ff;
            left  <= 0;
        end else if (!busy) begin
            tx <= 1'b1;
            if (start) begin
                shift <= {1'b1, data, 1'b0};
                left  <= 4'd10;
                ticks <= 0;
            end
        end else begin
            tx <= shift[0];
            if (ticks == DIVIDER - 1) begin
                ticks <= 0;
                shift <= {1'b1, shift[9:1]};
                left  <= left - 4'd1;
            end else begin
                ticks <= ticks + 1'b1;
            end
        end
    end
endmodule
