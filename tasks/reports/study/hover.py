"""The script and style with which a study's page shows the number under the pointer."""

STYLE = """
body{max-width:78rem}table{font-size:.92rem}th,td{padding:.3rem .6rem}
nav{margin:1rem 0}nav a{margin-right:1.2rem}a{color:#0072B2}
figure{margin:2rem 0;border-top:1px solid #ddd;padding-top:1rem}
.picture{position:relative;display:inline-block;max-width:100%}.picture img{width:100%}
.cells{cursor:crosshair}.cell{position:absolute;outline:2px solid #222;box-shadow:0 0 0 3px #fff;pointer-events:none}
.value{position:absolute;background:#222;color:#fff;padding:.2rem .5rem;font-size:.85rem;border-radius:3px;
pointer-events:none;white-space:nowrap;z-index:1}
"""

# Boxes and pointer are in shares of the picture, so that its size on the screen does not matter.
SCRIPT = """
for (const picture of document.querySelectorAll('.cells')) {
  const matrices = JSON.parse(picture.querySelector('script').textContent);
  const cell = picture.appendChild(document.createElement('div'));
  const value = picture.appendChild(document.createElement('div'));
  const hide = () => { cell.hidden = value.hidden = true; };
  cell.className = 'cell';
  value.className = 'value';
  hide();
  picture.addEventListener('pointerleave', hide);
  picture.addEventListener('pointermove', event => {
    const frame = picture.getBoundingClientRect();
    const x = (event.clientX - frame.left) / frame.width, y = (event.clientY - frame.top) / frame.height;
    for (const matrix of matrices) {
      const [left, first, right, last] = matrix.box;
      const width = (right - left) / matrix.columns.length, height = (last - first) / matrix.rows.length;
      const column = Math.floor((x - left) / width), row = Math.floor((y - first) / height);
      if (!(matrix.rows[row] !== undefined && matrix.columns[column] !== undefined)) continue;
      const number = matrix.values[row][column];
      const shown = number === null ? 'no value' : number + (matrix.unit ? ' ' + matrix.unit : '');
      value.textContent = matrix.rows[row] + ', ' + matrix.columns[column] + ': ' + shown;
      cell.hidden = value.hidden = false;
      const top = Math.min(first + row * height, first + (row + 1) * height);
      cell.style.cssText = `left:${100 * (left + column * width)}%;top:${100 * top}%;` +
        `width:${100 * width}%;height:${100 * Math.abs(height)}%`;
      value.style.cssText = (x < 0.6 ? `left:${100 * x + 1}%;` : `right:${100 * (1 - x) + 1}%;`) +
        (y < 0.9 ? `top:${100 * y + 2}%` : `bottom:${100 * (1 - y) + 2}%`);
      return;
    }
    hide();
  });
}
"""
